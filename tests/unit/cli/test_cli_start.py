import subprocess
import sys


def test_help_loads_neither_services_nor_drivers() -> None:
    """A fast start: nothing heavy is imported for what a verb does not use."""
    program = (
        "import sys; from shipoff.cli.app import app\n"
        "heavy = {'httpx2', 'websockets', 'pathspec', 'sqlalchemy', 'grpc', 'redis', 'pydantic', 'rich.progress'}\n"
        "ours = [name.split('.')[1] for name in sys.modules if name.startswith('shipoff.')]\n"
        "services = [name for name in ours if name not in ('cli', 'common')]\n"
        "print(sorted(heavy & set(sys.modules)), services)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "[] []"
