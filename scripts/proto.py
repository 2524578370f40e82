"""Compiles proto/ into src/shipoff/contracts and into an image for buf. Called by `make proto` and `make check`.

The import `buf/validate/validate.proto` is resolved from the descriptor that the protovalidate package carries.
Generated imports are moved below `shipoff.contracts`, because the services' own packages have the names of their protos.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "src" / "shipoff" / "contracts"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
BIN = Path(sys.executable).parent
RULES = "buf/validate/validate.proto"


def run_protoc(arguments: list[str]) -> None:
    """Runs protoc; exits when it fails, after its own message."""
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit(1)


def write_rules(into: Path) -> Path:
    """Writes a descriptor set of the validation rules and what they import; it stands in for their .proto files."""
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    google = into / "google.binpb"
    run_protoc([f"-I{WELL_KNOWN}", f"--descriptor_set_out={google}", "--include_imports", *rules.dependency])
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(google.read_bytes())
    descriptors.file.append(rules)
    target = into / "rules.binpb"
    target.write_bytes(descriptors.SerializeToString())
    return target


def contract_files(proto: Path) -> list[str]:
    """The paths of all contracts below `proto`, relative to it, sorted."""
    return sorted(str(path.relative_to(proto)) for path in proto.rglob("*.proto"))


def write_image(proto: Path, image: Path) -> None:
    """Compiles every contract below `proto` into one descriptor set with comments and imports, for buf."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = write_rules(Path(scratch))
        run_protoc(
            [
                f"-I{proto}",
                f"--descriptor_set_in={rules}",
                "--include_imports",
                "--include_source_info",
                f"--descriptor_set_out={image}",
                *contract_files(proto),
            ]
        )


def write_contracts(into: Path) -> None:
    """Generates messages, stubs and their types into `into`, as the package shipoff.contracts."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = write_rules(Path(scratch))
        out = Path(scratch) / "out"
        out.mkdir()
        files = [*contract_files(ROOT / "proto"), RULES]
        plugins = [f"--plugin={name}={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        python = [*plugins, f"--python_out={out}", f"--mypy_out=readable_stubs:{out}"]
        stubs = [*plugins, f"--grpc_python_out={out}", f"--mypy_grpc_out=readable_stubs,only_async:{out}"]
        source = [f"-I{ROOT / 'proto'}", f"--descriptor_set_in={rules}"]
        run_protoc([*source, *python, *files])
        services = [name for name in contract_files(ROOT / "proto") if "\nservice " in (ROOT / "proto" / name).read_text()]
        run_protoc([*source, *stubs, *services])
        for path in [*out.rglob("*.py"), *out.rglob("*.pyi")]:
            path.write_text(moved_imports(path.read_text()))
        shutil.copytree(out / "shipoff", into, dirs_exist_ok=True)
        shutil.copytree(out / "buf", into / "buf", dirs_exist_ok=True)
    for folder in [into, *(path for path in into.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    (into / "__init__.py").write_text('"""Generated from proto/ by `make proto`; never edited."""\n')
    (into / "py.typed").touch()


def moved_imports(code: str) -> str:
    """`from shipoff.x` and `from buf.x`, below shipoff.contracts."""
    code = re.sub(r"^(\s*)from shipoff\.", r"\1from shipoff.contracts.", code, flags=re.MULTILINE)
    return re.sub(r"^(\s*)from buf\.", r"\1from shipoff.contracts.buf.", code, flags=re.MULTILINE)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by relative path; caches left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def main() -> None:
    """Generates; --check tells whether the committed code is current; --image FILE [--from DIR] writes buf's image."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--from", dest="proto", type=Path, default=ROOT / "proto")
    options = parser.parse_args()
    if options.image:
        write_image(options.proto.resolve(), options.image)
        return
    if not options.check:
        shutil.rmtree(CONTRACTS, ignore_errors=True)
        write_contracts(CONTRACTS)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "contracts"
        fresh.mkdir()
        write_contracts(fresh)
        if contents(fresh) != contents(CONTRACTS):
            sys.exit("src/shipoff/contracts is not what proto/ generates: run `make proto` and commit the result")


if __name__ == "__main__":
    main()
