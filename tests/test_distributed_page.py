"""docs/distributed.md: its commands parse, torchrun's included, its files are valid, its table is the model's."""

import re
import shlex
import subprocess

import pytest
import yaml
from scripts_by_path import ROOT, load_script
from test_docs import Block, blocks, fault_of
from torch.distributed.run import get_args_parser

PAGE = (ROOT / "docs" / "distributed.md").read_text()
BLOCKS = [block for block in blocks(PAGE) if "torchrun" in block.text]


def torchrun_commands(text: str) -> list[list[str]]:
    """The words after `torchrun` of each command; "$@" stands for each list that the shell's `set --` gives it."""
    lists = re.findall(r"\bset -- ([^;\n]*)", text) or [""]
    lines = [line.rstrip(" &") for line in re.findall(r"(?:^|exec |srun )(?<!`)torchrun (.*)$", text, re.MULTILINE)]
    return [shlex.split(line.replace('"$@"', words)) for line in lines for words in lists]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.title or "bash")
def test_every_torchrun_parses(block: Block) -> None:
    commands = torchrun_commands(block.text)
    assert commands
    for words in commands:
        arguments = get_args_parser().parse_args(words)
        assert arguments.training_script == "cifar"
        assert arguments.no_python
        assert fault_of(arguments.training_script_args) == ""
        assert {"-s", "--resume"} & set(arguments.training_script_args)


def test_the_files_of_the_page_are_valid() -> None:
    files = {block.title: block.text for block in BLOCKS if block.title}
    assert set(files) == {"train.sbatch", "train.yaml"}
    subprocess.run(["bash", "-n"], input=files["train.sbatch"], text=True, check=True)
    job = yaml.safe_load(files["train.yaml"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    subprocess.run(["sh", "-n"], input=container["args"][0], text=True, check=True)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_workers_on_kubernetes_run_a_command_that_parses() -> None:
    (block,) = [block for block in blocks(PAGE) if block.title == "workers.yaml"]
    spec = yaml.safe_load(block.text)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    program, *words = container["command"]
    assert (program, fault_of(words)) == ("cifar", "")
    assert spec["parallelism"] == spec["completions"]


def test_the_table_is_that_of_the_model() -> None:
    table = load_script("scripts/scaling_table.py").table()
    assert table in PAGE, f"docs/distributed.md needs\n{table}"
    assert "assumptions" in PAGE
