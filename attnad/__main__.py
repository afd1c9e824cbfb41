"""The command line: ``python -m attnad COMMAND``."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Hands the arguments to a command; returns the exit code."""
    if arguments[:1] == ["data"]:
        from attnad import datasets

        return datasets.cli(arguments[1:])
    if arguments[:1] == ["benchmark"]:
        from attnad import benchmark

        return benchmark.cli(arguments[1:])
    if arguments[:1] == ["distill"]:
        from attnad import distill

        return distill.cli(arguments[1:])
    if arguments[:1] in (["train"], ["predict"]):
        from attnad import inspection

        command = inspection.train_cli if arguments[0] == "train" else inspection.predict_cli
        return command(arguments[1:])
    print("usage: python -m attnad {data,train,predict,benchmark,distill} ...", file=sys.stderr)
    return 0 if arguments[:1] in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
