"""The chart's objects, as the real Helm renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from neighbours import chart
from neighbours.chart import CHART, of_kind, pods, rendered

from shipoff.common.callgraph import CALLS, SERVICES, callers_of
from shipoff.common.tls import IDENTITY_SUFFIX
from shipoff.embedded.postgres import SERVICES as STORING

EXTERNAL: dict[str, Any] = {
    "existingSecret": "mine",
    "postgres": {"kind": "external", "external": {"host": "db.example.com", "port": 6432, "parameters": "ssl=verify-full"}},
    "redis": {"kind": "external", "external": {"port": 6380}},
    "objects": {"kind": "external", "external": {"url": "s3://bucket/shipoff", "endpoint": "https://s3.example.com:8443"}},
}
SINGLE: dict[str, Any] = {"mode": "single", "objects": {"kind": "folder"}}
JOBS: dict[str, Any] = {"build": {"jobs": {"namespace": "builds"}}, "runtime": {"argocdNamespace": "argocd"}}
TLS: dict[str, Any] = {
    "ingress": {"className": "nginx", "anyHost": True, "tls": {"enabled": True, "clusterIssuer": "letsencrypt"}}
}
MANAGED: dict[str, Any] = {"mtls": {"source": "certManager"}}
WAYS = {"as it is": {}, "external": EXTERNAL, "single": SINGLE, "jobs": JOBS, "tls": TLS, "cert-manager": MANAGED}
GRPC, EDGE, HTTP = 50051, 8080, 8081


@pytest.fixture(autouse=True)
def _with_helm() -> None:
    chart.helm()


def shape(value: object, path: str = "") -> Iterator[str]:
    """Every field of an object and the kind of its value: two of one shape hold against a schema alike."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from shape(inner, f"{path}.{key}")
        case list():
            for inner in value:
                yield from shape(inner, f"{path}[]")
        case _:
            yield f"{path}:{type(value).__name__}"


def test_every_object_holds_against_the_strict_schema() -> None:
    everything = [one for way in WAYS.values() for upgrade in (False, True) for one in rendered(upgrade=upgrade, **way)]
    by_shape = {(one["kind"], frozenset(shape(one))): one for one in everything}
    for one in by_shape.values():
        if not one["apiVersion"].startswith("cert-manager.io/"):
            kubernetes_validate.validate(one, "1.34", strict=True)
    assert {"Deployment", "StatefulSet", "Job", "NetworkPolicy", "Ingress", "ClusterRole"} <= {kind for kind, _ in by_shape}


@pytest.mark.parametrize("way", WAYS)
def test_no_two_objects_have_one_name(way: str) -> None:
    places = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered(**WAYS[way])]
    assert len(places) == len(set(places))


def test_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in chart.linted()


def test_every_service_has_all_of_its_objects() -> None:
    objects = rendered()
    for service in SERVICES:
        for kind in ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"):
            assert f"s-{service}" in of_kind(objects, kind), (service, kind)
        container = pods(objects)[f"s-{service}"]["containers"][0]
        assert container["args"] == ["serve", service]
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"]["port"] == 50052
        assert f"s-{service}-tls" in of_kind(objects, "Secret")


@pytest.mark.parametrize("way", WAYS)
def test_every_pod_is_restricted_and_knows_nothing_of_the_cluster_but_what_it_needs(way: str) -> None:
    objects = [one for upgrade in (False, True) for one in rendered(upgrade=upgrade, **WAYS[way])]
    for name, pod in pods(objects).items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] >= 10000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        allowed = {"s-runtime", "s-single"} | ({"s-build"} if way == "jobs" else set())
        assert pod["automountServiceAccountToken"] is (name in allowed), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "hostPath" not in json.dumps(pod["volumes"])


def peers(rules: list[dict[str, Any]], direction: str, port: int) -> set[str]:
    """The components that rules about this port name."""
    found: set[str] = set()
    for rule in rules:
        if port in [one["port"] for one in rule.get("ports", [])]:
            selectors = [one.get("podSelector", {}).get("matchLabels", {}) for one in rule[direction]]
            found |= {one["app.kubernetes.io/component"] for one in selectors if one}
    return found


def test_network_policies_are_the_call_graph() -> None:
    policies = of_kind(rendered(), "NetworkPolicy")
    assert policies["s-default"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policies["s-default"]["spec"].keys()
    for service in SERVICES:
        spec = policies[f"s-{service}"]["spec"]
        assert peers(spec["ingress"] or [], "from", GRPC) == callers_of(service), service
        assert peers(spec["egress"], "to", GRPC) == CALLS.get(service, frozenset()), service


def test_only_who_uses_a_server_reaches_it() -> None:
    policies, needs = of_kind(rendered(), "NetworkPolicy"), declared()
    for server, port, need in (("postgres", 5432, "database"), ("valkey", 6379, "redis"), ("objects", 9000, "objects")):
        users = {service for service, its in needs.items() if its.get(need)} | ({"migrate"} if need == "database" else set())
        assert peers(policies[f"s-{server}"]["spec"]["ingress"], "from", port) == users
        for service in SERVICES:
            assert (peers(policies[f"s-{service}"]["spec"]["egress"], "to", port) == {server}) is (service in users), service
        assert not policies[f"s-{server}"]["spec"].get("egress")


def test_external_servers_are_reached_at_their_own_ports() -> None:
    for service, needs in declared().items():
        egress = of_kind(rendered(**EXTERNAL), "NetworkPolicy")[f"s-{service}"]["spec"]["egress"]
        opened = {one["port"] for rule in egress for one in rule.get("ports", [])}
        for need, port in (("database", 6432), ("redis", 6380), ("objects", 8443)):
            assert (port in opened) is bool(needs.get(need)), (service, need)


def test_only_the_ingress_controller_reaches_what_visitors_reach() -> None:
    for way, expected in (({}, {"gateway": {HTTP}, "cdn": {EDGE}}), (SINGLE, {"single": {HTTP, EDGE}})):
        found: dict[str, set[int]] = {}
        for name, policy in of_kind(rendered(ingress={"namespace": "edge"}, **way), "NetworkPolicy").items():
            for rule in policy["spec"].get("ingress") or []:
                if {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}} in rule["from"]:
                    found[name.removeprefix("s-")] = {one["port"] for one in rule["ports"]}
        assert found == expected


def declared() -> dict[str, dict[str, Any]]:
    """What the chart gives each service."""
    needs: dict[str, dict[str, Any]] = yaml.safe_load((CHART / "files" / "services.yaml").read_text())
    return needs


def test_the_chart_s_tables_are_the_code_s() -> None:
    graph = yaml.safe_load((CHART / "files" / "callgraph.yaml").read_text())
    assert {caller: frozenset(called) for caller, called in graph.items()} == CALLS
    needs = declared()
    assert set(needs) == set(SERVICES)
    assert {name for name, its in needs.items() if its.get("database")} == set(STORING)
    source = Path(chart.ROOT) / "src" / "shipoff"
    for service, its in needs.items():
        main = (source / service / "main.py").read_text()
        assert bool(its.get("redis")) is ("redis_url" in main), service
        # The runtime stores nothing where apps are images.
        assert bool(its.get("objects")) is ("objects_url" in main and service != "runtime"), service
        assert ("SHIPOFF_MASTER_KEY" in its.get("secrets", {})) is ("master_key" in main), service


@pytest.mark.parametrize("way", ["as it is", "single", "cert-manager", "external"])
def test_no_secret_is_in_clear(way: str) -> None:
    objects = rendered(**WAYS[way])
    given = [value for one in objects if one["kind"] == "Secret" for key, value in one["data"].items() if key != "ca.crt"]
    everything_else = json.dumps([one for one in objects if one["kind"] != "Secret"])
    assert of_kind(objects, "ConfigMap") == {}
    assert not [value for value in given if value in everything_else and len(value) > 16]
    for name, pod in pods(objects).items():
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|KEY$|KEY_ID|SECRET|TOKEN|REDIS_URL", variable["name"]) and "TLS" not in variable["name"]:
                    value = variable.get("value", "")
                    assert "secretKeyRef" in variable.get("valueFrom", {}) or "$(" in value, (name, variable)
    assert ("s-secrets" in of_kind(objects, "Secret")) is (way != "external")


def test_a_service_is_given_its_own_secrets_only() -> None:
    for service, its in declared().items():
        text = json.dumps(pods(rendered())[f"s-{service}"])
        for other in STORING:
            assert (f'"{other}-password"' in text) is (other == service and bool(its.get("database"))), (service, other)
        assert ("master-key" in text) is ("SHIPOFF_MASTER_KEY" in its.get("secrets", {})), service


def test_who_may_do_what_on_the_cluster() -> None:
    def bound(**values: Any) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for one in rendered(**values):
            if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
                for subject in one["subjects"]:
                    found.setdefault(subject["name"], set()).add(
                        f"{one['kind']} {one['metadata'].get('namespace', '')}".strip()
                    )
        return found

    assert bound() == {"s-runtime": {"ClusterRoleBinding"}}
    assert bound(**JOBS) == {
        "s-runtime": {"ClusterRoleBinding", "RoleBinding argocd"},
        "s-build": {"ClusterRoleBinding", "RoleBinding builds"},
    }
    assert set(bound(**SINGLE)) == {"s-single"}
    for one in rendered(**JOBS):
        if one["kind"] in ("Role", "ClusterRole"):
            for rule in one["rules"]:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
    (build,) = [one for one in of_kind(rendered(**JOBS), "Role").values() if one["metadata"].get("namespace") == "builds"]
    (secrets,) = [rule for rule in build["rules"] if "secrets" in rule["resources"]]
    assert secrets["verbs"] == ["create", "delete"]


def test_the_runtime_may_do_what_its_driver_asks_for() -> None:
    folder = Path(chart.ROOT) / "src/shipoff/runtime/adapters/kubernetes"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    imported = re.findall(r"^from lightkube\.resources\.\w+ import (?:\(([^)]*)\)|(.*))$", text, re.MULTILINE)
    kinds = {name for pair in imported for name in re.split(r"[\s,]+", "".join(pair)) if name}
    assert {"Deployment", "Ingress", "PodLog"} <= kinds
    (role,) = of_kind(rendered(), "ClusterRole").values()
    allowed = {resource for rule in role["rules"] for resource in rule["resources"]}
    special = {"PodLog": "pods/log", "PodExec": "pods/exec", "NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}
    assert {special.get(kind, kind.lower() + "s") for kind in kinds} <= allowed


def test_with_argo_cd_the_runtime_follows_applications_everywhere_and_writes_them_in_their_namespace() -> None:
    objects = rendered(**JOBS)
    (everywhere,) = [one for one in of_kind(objects, "ClusterRole").values() if one["metadata"]["name"].endswith("-runtime")]
    (inside,) = [one for one in of_kind(objects, "Role").values() if one["metadata"].get("namespace") == "argocd"]

    def verbs(role: dict[str, Any]) -> list[str]:
        return [verb for rule in role["rules"] if "applications" in rule["resources"] for verb in rule["verbs"]]

    assert verbs(everywhere) == ["get", "list", "watch"]
    assert verbs(inside) == ["get", "create", "patch", "delete"]


def test_whoever_admits_deployments_knows_that_apps_run_on_the_cluster() -> None:
    """Else their needs would be counted against the machine of the orchestrator's pod."""
    told = {
        name
        for name, one in of_kind(rendered(), "Deployment").items()
        for given in one["spec"]["template"]["spec"]["containers"][0].get("env", [])
        if (given["name"], given.get("value")) == ("SHIPOFF_RUNTIME_DRIVER", "kubernetes")
    }
    assert told == {"s-orchestrator", "s-runtime"}


def test_certificates_name_the_service_and_its_addresses() -> None:
    for name, one in of_kind(rendered(**MANAGED), "Certificate").items():
        if name != "s-ca":
            service = name.removeprefix("s-")
            assert one["spec"]["dnsNames"] == [name, f"{name}.platform", f"{name}.platform.svc", service + IDENTITY_SUFFIX]
            assert set(one["spec"]["usages"]) >= {"server auth", "client auth"}
    environment = {one["name"]: one.get("value") for one in pods(rendered())["s-orchestrator"]["containers"][0]["env"]}
    assert environment["SHIPOFF_BUILD_ADDRESS"] == "s-build.platform.svc:50051"
    assert "SHIPOFF_IDENTITY_ADDRESS" not in environment
    assert environment["SHIPOFF_TLS_CA"] == "/etc/shipoff/tls/ca.crt"


def test_databases_are_migrated_before_an_upgrade_and_where_they_are_there_already() -> None:
    def hooks(**values: Any) -> str:
        (job,) = of_kind(rendered(upgrade=True, **values), "Job").values()
        return str(job["metadata"]["annotations"]["helm.sh/hook"])

    assert hooks() == "pre-upgrade"
    assert hooks(**EXTERNAL) == "pre-install,pre-upgrade"
    assert not of_kind(rendered(migrations={"hook": False}), "Job")
    # What waits for the server of this namespace; nobody has to where it is there already.
    assert pods(rendered())["s-log"]["initContainers"][0]["args"][:2] == ["migrate", "log"]
    assert "initContainers" not in pods(rendered(**EXTERNAL))["s-log"]


def test_a_secret_s_files_and_the_internet_are_given_to_whom_they_are_for() -> None:
    given = {"secretFiles": [{"secret": "gitops", "path": "/etc/shipoff/gitops"}]}
    objects = rendered(services={"runtime": {**given, "internet": True}})
    for service in SERVICES:
        pod = pods(objects)[f"s-{service}"]
        (own, *_) = pod["containers"]
        there = {"name": "secret-gitops", "mountPath": "/etc/shipoff/gitops", "readOnly": True} in own["volumeMounts"]
        assert there is (service == "runtime") is ("secret-gitops" in [one["name"] for one in pod["volumes"]])
        egress = of_kind(objects, "NetworkPolicy")[f"s-{service}"]["spec"]["egress"]
        public = [rule for rule in egress if "except" in json.dumps(rule["to"])]
        assert bool(public) is (service in ("build", "worker", "runtime")), service
    (single, _) = pods(rendered(**SINGLE, single=given))["s-single"]["containers"]
    assert single["volumeMounts"][-1]["mountPath"] == "/etc/shipoff/gitops"


def test_large_numbers_are_written_out() -> None:
    objects = rendered(settings={"SHIPOFF_ORCHESTRATOR_BUDGET_MEMORY_BYTES": 8589934592, "SHIPOFF_LOG_RETENTION_DAYS": 0.5})
    environment = {one["name"]: one.get("value") for one in pods(objects)["s-log"]["containers"][0]["env"]}
    assert environment["SHIPOFF_ORCHESTRATOR_BUDGET_MEMORY_BYTES"] == "8589934592"
    assert environment["SHIPOFF_LOG_RETENTION_DAYS"] == "0.5"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "both"}, "/mode"),
        ({"baseDomain": ""}, "/baseDomain"),
        ({"image": {}}, "/image"),
        ({"servics": {}}, "servics"),
        ({"services": {"gateway": {"replica": 2}}}, "replica"),
        ({"services": {"cdn": {"replicas": 2}}}, "/services/cdn/replicas"),
        ({"services": {"worker": {"resources": {"limits": {"memory": "12Mb"}}}}}, "/services/worker/resources/limits/memory"),
        ({"settings": {"lower": "x"}}, "'lower'"),
        ({"image": {"repository": "r", "digest": "latest"}}, "/image/digest"),
        ({"postgres": {"kind": "external"}}, "existingSecret"),
        ({"postgres": {"kind": "external"}, "existingSecret": "mine"}, "postgres.external.host"),
        ({"redis": {"kind": "external"}}, "redis-url"),
        ({"objects": {"kind": "external"}}, "objects.external.url"),
        ({"objects": {"kind": "folder"}}, "mode=single"),
        ({"build": {"jobs": {"namespace": "platform"}}}, "build.jobs.namespace"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(values: dict[str, Any], said: str) -> None:
    assert said in chart.refused(**values)


def test_what_argo_cd_is_told_to_install_is_rendered_without_a_secret() -> None:
    folder = CHART.parent / "argocd"
    application = yaml.safe_load((folder / "application.yaml").read_text())
    project = yaml.safe_load((folder / "project.yaml").read_text())
    objects = rendered(**application["spec"]["source"]["helm"]["valuesObject"])
    kinds = {(one["apiVersion"].rpartition("/")[0], one["kind"]) for one in objects}
    refused = {(one["group"], one["kind"]) for one in project["spec"]["namespaceResourceBlacklist"]}
    assert not kinds & refused
    # Of what is the whole cluster's, only what the project lets in.
    whole = {(one["group"], one["kind"]) for one in project["spec"]["clusterResourceWhitelist"]}
    assert {kind for kind in kinds if kind[1].startswith("Cluster") and kind[1] != "ClusterIssuer"} <= whole
    places = {one["metadata"].get("namespace", "shipoff") for one in objects}
    assert places <= {one["namespace"] for one in project["spec"]["destinations"]}
    assert application["spec"]["project"] == project["metadata"]["name"]
    # Twice the same: nothing is made anew with every sync.
    chart._rendered.cache_clear()
    assert rendered(**application["spec"]["source"]["helm"]["valuesObject"]) == objects
