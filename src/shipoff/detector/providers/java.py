"""Java: Maven's pom.xml (https://maven.apache.org/pom.html) and Gradle's build files; Spring Boot and others."""

from __future__ import annotations

import re

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.formats import Element, xml_children, xml_text, xml_tree
from shipoff.detector.manifests import text
from shipoff.detector.versions import version

_GROUPS = {
    "org.springframework.boot": "spring-boot",
    "io.quarkus": "quarkus",
    "io.quarkus.platform": "quarkus",
    "io.micronaut": "micronaut",
    "io.micronaut.platform": "micronaut",
}
_GRADLE_PLUGINS = {"org.springframework.boot": "spring-boot", "io.quarkus": "quarkus", "io.micronaut.application": "micronaut"}
_GRADLE_FILES = ("build.gradle.kts", "build.gradle")
_SETTINGS = ("settings.gradle.kts", "settings.gradle")
_PLUGIN = re.compile(r"""^(?:id[ (]*["']([\w.-]+)["']|(application)\b)""")
_NAME = re.compile(r"""^rootProject\.name *= *["']([\w.-]+)["']""")
_INCLUDED = re.compile(r"""["']:?([\w.:-]+)["']""")
_TOOLCHAIN = re.compile(r"JavaLanguageVersion\.of\((\d+)\)")
_PORT: dict[str, Argv] = {
    "spring-boot": ("-Dserver.port=$PORT", "-Dserver.address=$HOST"),
    "quarkus": ("-Dquarkus.http.port=$PORT", "-Dquarkus.http.host=$HOST"),
    "micronaut": ("-Dmicronaut.server.port=$PORT", "-Dmicronaut.server.host=$HOST"),
}
_FRAMEWORK, _PLAIN = 90, 62


def java(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """Maven before Gradle: a repository with both is on its way from one to the other, and says so in a warning."""
    gradle = snapshot.first(*_GRADLE_FILES, *_SETTINGS)
    if snapshot.has("pom.xml"):
        warnings = (f"both pom.xml and {gradle} are here: Maven is used",) if gradle else ()
        return _maven(snapshot, warnings)
    return _gradle(snapshot, gradle) if gradle else None


def _maven(snapshot: Snapshot, warnings: tuple[str, ...]) -> Candidate:
    pom = xml_tree(snapshot, "pom.xml")
    if pom is None:
        blocked = "pom.xml is not valid XML. Mend it and deploy again."
        return Candidate("java", _PLAIN, Mode.SERVER, blocked=blocked)
    framework, key = _maven_framework(pom)
    program: Argv = ("sh", "mvnw") if snapshot.has("mvnw") else ("mvn",)
    build = Step("build", (("java", "-version"), (*program, "--batch-mode", "-DskipTests", "package")), caches=("maven",))
    return Candidate(
        "java",
        _FRAMEWORK if framework else _PLAIN,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("maven"),
        runtimes=_maven_runtimes(snapshot, pom),
        steps=(build,),
        web=_start(framework, _jar(pom, framework)),
        evidence=(Evidence("pom.xml", key, f"{framework or 'Java'} application, packaged by Maven"),),
        warnings=warnings,
    )


def _maven_framework(pom: Element) -> tuple[str, str]:
    parent = xml_text(pom, "parent", "groupId")
    if parent in _GROUPS:
        return _GROUPS[parent], "parent.groupId"
    sections = [*xml_children(pom, "dependencies")]
    for managed in xml_children(pom, "dependencyManagement"):
        sections += xml_children(managed, "dependencies")
    groups = [xml_text(item, "groupId") for section in sections for item in xml_children(section, "dependency")]
    return next(((_GROUPS[group], "dependencies") for group in groups if group in _GROUPS), ("", ""))


def _jar(pom: Element, framework: str) -> str:
    """The packaged file, as a pattern where the pom computes its name."""
    if framework == "quarkus":
        return "target/quarkus-app/quarkus-run.jar"
    extension = "war" if xml_text(pom, "packaging") == "war" else "jar"
    name = xml_text(pom, "build", "finalName")
    if not name:
        artifact, number = xml_text(pom, "artifactId"), xml_text(pom, "version") or xml_text(pom, "parent", "version")
        name = f"{artifact}-{number}" if artifact and number else "*"
    return f"target/{name}.{extension}" if re.fullmatch(r"[\w.+-]+", name) else f"target/*.{extension}"


def _start(framework: str, jar: str) -> Argv:
    options = _PORT.get(framework, ())
    if "*" not in jar:
        return ("java", *options, "-jar", jar)
    shell = " ".join(f'"{option}"' for option in options)
    return ("/bin/sh", "-c", f"exec java {shell} -jar {jar}".replace("  ", " "))


def _maven_runtimes(snapshot: Snapshot, pom: Element) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "java"):
        return (asked,)
    for key in ("java.version", "maven.compiler.release", "maven.compiler.target", "maven.compiler.source"):
        if written := xml_text(pom, "properties", key):
            return (RuntimeVersion("java", written[:64], f"pom.xml: properties.{key}"),)
    return ()


def _gradle(snapshot: Snapshot, manifest: str) -> Candidate:
    folder, plugins = _gradle_app(snapshot)
    framework = next((name for plugin, name in _GRADLE_PLUGINS.items() if plugin in plugins), "")
    program: Argv = ("sh", "gradlew") if snapshot.has("gradlew") else ("gradle",)
    task, web = _gradle_start(snapshot, folder, plugins, framework)
    prefix = f":{folder.replace('/', ':')}:" if folder != "." else ""
    commands = (("java", "-version"), (*program, "--no-daemon", "--console=plain", f"{prefix}{task}"))
    return Candidate(
        "java",
        _FRAMEWORK if framework else _PLAIN,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("gradle"),
        runtimes=_gradle_runtimes(snapshot, folder),
        steps=(Step("build", commands, caches=("gradle",)),),
        web=web,
        evidence=(Evidence(manifest, "", f"{framework or 'Java'} application, built by Gradle"),),
    )


def _gradle_app(snapshot: Snapshot) -> tuple[str, frozenset[str]]:
    """The project that can be run and its plugins: the root, else the first included one that is an application."""
    candidates = [".", *_included(snapshot)]
    found = {folder: _plugins(snapshot, folder) for folder in candidates}
    runnable = {"application", *_GRADLE_PLUGINS}
    return next(((folder, plugins) for folder, plugins in found.items() if runnable & plugins), (".", found["."]))


def _included(snapshot: Snapshot) -> list[str]:
    statements = [line for file in _SETTINGS for line in _lines(snapshot, file) if line.startswith("include")]
    names = [name.replace(":", "/") for line in statements for name in _INCLUDED.findall(line)]
    return [name for name in names if snapshot.first(*(f"{name}/{file}" for file in _GRADLE_FILES))]


def _lines(snapshot: Snapshot, file: str) -> list[str]:
    return [line.partition("//")[0].strip() for line in text(snapshot, file).splitlines()]


def _build_file(snapshot: Snapshot, folder: str) -> str:
    prefix = "" if folder == "." else f"{folder}/"
    return snapshot.first(*(f"{prefix}{file}" for file in _GRADLE_FILES))


def _plugins(snapshot: Snapshot, folder: str) -> frozenset[str]:
    lines = _lines(snapshot, _build_file(snapshot, folder))
    return frozenset(match[1] or match[2] for line in lines if (match := _PLUGIN.match(line)))


def _gradle_start(snapshot: Snapshot, folder: str, plugins: frozenset[str], framework: str) -> tuple[str, Argv]:
    prefix = "" if folder == "." else f"{folder}/"
    if framework == "spring-boot":
        return "bootJar", _start(framework, f"{prefix}build/libs/*.jar")
    if framework == "quarkus":
        return "quarkusBuild", _start(framework, f"{prefix}build/quarkus-app/quarkus-run.jar")
    if "application" in plugins or framework == "micronaut":
        names = [match[1] for file in _SETTINGS for line in _lines(snapshot, file) if (match := _NAME.match(line))]
        name = folder.rpartition("/")[2] if folder != "." else (names or ["*"])[0]
        path = f"{prefix}build/install/{name}/bin/{name}"
        # Without the script's twin for Windows.
        return "installDist", (path,) if "*" not in path else ("/bin/sh", "-c", "exec build/install/*/bin/*[!t]")
    return "assemble", _start(framework, f"{prefix}build/libs/*.jar")


def _gradle_runtimes(snapshot: Snapshot, folder: str) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "java"):
        return (asked,)
    file = _build_file(snapshot, folder)
    match = _TOOLCHAIN.search("\n".join(_lines(snapshot, file)))
    return (RuntimeVersion("java", match[1], f"{file}: toolchain"),) if match else ()
