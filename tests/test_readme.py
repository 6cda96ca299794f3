"""What README.md says about the code's own tables."""

from tests.commands import PROJECT
from utils.method.methods import METHODS
from utils.method.starts import NONE, STARTS


def test_the_tables_of_methods_and_starts_are_the_code_s():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    methods = ["| `--method` | what a level does, once its smallest weights are pruned |", "|---|---|"]
    methods += [f"| `{name}` | {method.description} |" for name, method in METHODS.items() if name != "signed_mask"]
    starts = ["| `--start` | begins at | mask | signs | magnitudes | ψ |", "|---|---|---|---|---|---|"]
    for name, start in STARTS.items():
        mask = "" if start.mask == NONE else start.mask
        starts.append(f"| `{name}` | {start.formula} | {mask} | {start.signs} | {start.magnitudes} | {start.norms} |")
    for table in (methods, starts):
        assert "\n".join(table) in readme, "put this table into README.md:\n" + "\n".join(table)
