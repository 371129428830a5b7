"""The ready-to-edit files of docs/cluster, with stand-ins for what runs them: there is no Slurm and no Kubernetes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modetrain.cluster import slurm
from modetrain.cluster.environment import PORT, from_environment

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "cluster"
WORDS = ["-m", "modetrain", "recipe=mnist", "mode=multiworker", "run_dir=/shared/runs/mine", "resume=latest"]


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def service():
    return next(part for part in kubernetes() if part["kind"] == "Service")


@pytest.fixture
def job():
    return next(part for part in kubernetes() if part["kind"] == "Job")


def kubernetes():
    return list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))


def environment(job):
    """What the container of each pod finds: the job's own variables, and what Kubernetes adds for an indexed job."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    own = {variable["name"]: variable["value"] for variable in container["env"]}
    return [{**own, "JOB_COMPLETION_INDEX": str(index)} for index in range(job["spec"]["completions"])]


def test_each_pod_is_a_worker_and_finds_the_others(job, service):
    found = [from_environment(environ) for environ in environment(job)]
    assert [cluster.index for cluster in found] == list(range(job["spec"]["completions"]))
    assert {cluster.origin for cluster in found} == {"kubernetes"}
    name, subdomain = job["metadata"]["name"], service["metadata"]["name"]
    for cluster in found:
        assert cluster.workers == tuple(f"{name}-{index}.{subdomain}:{PORT}" for index in range(len(found)))


def test_the_job_has_a_pod_for_each_worker_at_once(job):
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment(job)[0]["MODETRAIN_WORKERS"])


def test_the_service_gives_the_pods_their_names(job, service):
    pod = job["spec"]["template"]
    assert service["spec"]["clusterIP"] == "None", "headless"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert port["port"] == pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert str(port["port"]) == environment(job)[0]["MODETRAIN_PORT"]


def test_the_pods_run_modetrain_in_a_folder_they_share(job):
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    late = "mode.startup_timeout=600"  # images come late
    assert container["command"] + container["args"] == ["python", *WORDS, late]
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == "/shared"
    assert mount["name"] in [volume["name"] for volume in pod["volumes"]]


def test_a_wrong_configuration_ends_the_job(job):
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never", "what podFailurePolicy needs"


# --- Slurm -----------------------------------------------------------------------------------------------------------

# Starts the tasks of a step, one after the other, with what Slurm's documentation says that srun sets.
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
options = [words.pop(0) for _ in range(len(words)) if words[0].startswith("--")]
nodes, per_node = int(os.environ["FAKE_NODES"]), int(os.environ["FAKE_PER_NODE"])
for rank in range(nodes * per_node):
    step = {
        "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_NUM_TASKS": nodes * per_node,
        "SLURM_STEP_NODELIST": f"node[01-{nodes:02}]", "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})",
        "SLURM_DISTRIBUTION": "block", "SLURM_PROCID": rank, "SLURM_NODEID": rank // per_node,
        "SLURM_LOCALID": rank % per_node, "FAKE_OPTIONS": " ".join(options),
    }
    code = subprocess.call(words, env={**os.environ, **{name: str(value) for name, value in step.items()}})
    if code: sys.exit(code)
"""
PYTHON = """
import dataclasses, json, os, sys
from modetrain.cluster.environment import from_environment
cluster = from_environment(os.environ)
found = {"words": sys.argv[1:], "options": os.environ["FAKE_OPTIONS"], "cluster": cluster and dataclasses.asdict(cluster)}
print(json.dumps(found))
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


def sbatch(folder, *words, nodes, per_node, **more):
    """Runs the batch file as sbatch would, with a `srun` and a `python` of our own."""
    for name, program in (("srun", SRUN), ("python", PYTHON)):
        (folder / name).write_text(f"#!{sys.executable}\n{program}")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4242", "SLURM_PROCID": "0", "SLURM_NTASKS": str(nodes * per_node)}
    fake = {"FAKE_NODES": str(nodes), "FAKE_PER_NODE": str(per_node), **more}
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **job, **fake}
    command = ["bash", str(FILES / "slurm.sbatch"), *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("nodes", "per_node"), [(2, 1), (3, 2)])
def test_each_task_is_a_worker_and_finds_the_others(tmp_path, nodes, per_node):
    code, found = sbatch(tmp_path, nodes=nodes, per_node=per_node)
    assert code == 0
    first = slurm._FIRST_PORT + slurm._BLOCK * (4242 % slurm._BLOCKS)
    workers = [f"node{node + 1:02}:{first + task}" for node in range(nodes) for task in range(per_node)]
    assert [seen["cluster"] for seen in found] == [
        {"workers": workers, "index": index, "origin": "slurm"} for index in range(nodes * per_node)
    ]


def test_the_tasks_run_modetrain_with_the_words_that_were_added(tmp_path):
    _, found = sbatch(tmp_path, "steps=7", "notes=two words", nodes=2, per_node=1)
    assert [seen["words"] for seen in found] == [[*WORDS, "steps=7", "notes=two words"]] * 2
    assert found[0]["options"] == "--kill-on-bad-exit=1"


def test_the_job_has_the_code_of_its_workers(tmp_path):
    assert sbatch(tmp_path, nodes=2, per_node=1, FAKE_CODE="143")[0] == 143


def test_slurm_is_asked_for_a_worker_a_machine_and_told_to_warn_before_the_end():
    lines = (FILES / "slurm.sbatch").read_text().splitlines()
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
    assert {"--ntasks-per-node=1", "--signal=TERM@120", "--requeue"} <= set(options)
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    last_option = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last_option < min(commands), "sbatch stops reading options at the first command"


# --- what is written about them --------------------------------------------------------------------------------------


def test_the_page_names_the_variables_that_are_read():
    text = (ROOT / "docs" / "reference" / "clusters.md").read_text()
    for name in ("MODETRAIN_WORKERS", "MODETRAIN_JOB", "MODETRAIN_SERVICE", "MODETRAIN_PORT", "JOB_COMPLETION_INDEX"):
        assert name in text
    (example,) = [line.strip() for line in text.splitlines() if line.strip().startswith("TF_CONFIG=")]
    assert from_environment({"TF_CONFIG": example.removeprefix("TF_CONFIG=").strip("'")}).index == 0
    last = slurm._FIRST_PORT + slurm._BLOCK * (slurm._BLOCKS - 1)
    assert f"{slurm._FIRST_PORT} to {last}" in text
