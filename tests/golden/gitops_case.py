"""A project's folder in the GitOps repository, byte by byte: `python tests/golden/gitops_case.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from golden.manifest_cases import CASES
from neighbours.gitops import seal

from shipoff.runtime.adapters.kubernetes.sheets import sheets
from shipoff.runtime.manifests import Release, project_objects, release_objects, route_objects
from shipoff.runtime.manifests.application import Argo, application
from shipoff.runtime.manifests.canonical import canonical
from shipoff.runtime.manifests.folder import PROJECT_FOLDER

GOLDEN = Path(__file__).with_name("gitops") / "web-and-worker-with-tls.txt"
ARGO = Argo("argocd", "apps", "https://kubernetes.default.svc", "https://git.example/gitops.git", "main", "apps")


def rendered(name: str = "web-and-worker-with-tls") -> str:
    """Every file with its path, and the Application; sealed values, which are others each time, are left out."""
    workload, configured, cluster = CASES[name]
    release = Release(workload, configured, cluster)
    around = sheets(project_objects(workload, release.names, cluster), PROJECT_FOLDER, seal())
    own = sheets([*release_objects(release), *route_objects(release)], release.names.environment, seal())
    pages = [(one.mark.path, one.content()) for one in [*around, *own] if "sealedsecret" not in one.mark.path]
    pages.append(("Application", canonical(application(workload, release.names, cluster.platform, ARGO).to_dict())))
    return "\n".join(f"== {path}\n{content.decode()}" for path, content in sorted(pages))


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(rendered())
