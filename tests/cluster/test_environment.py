"""Which worker a process is, from TF_CONFIG, Slurm or Kubernetes; what contradicts itself is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from modetrain.cluster.environment import Cluster, from_environment
from modetrain.cluster.slurm import expand_nodes, expand_tasks
from modetrain.errors import ConfigError

# --- TF_CONFIG -------------------------------------------------------------------------------------------------------


def tf_config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_without_anything_around_there_is_no_cluster():
    assert from_environment({}) is None
    assert from_environment({"TF_CONFIG": " "}) is None
    assert from_environment({"MODETRAIN_PORT": "2222", "JOB_COMPLETION_INDEX": "1"}) is None, "a sweep of single runs"


def test_tf_config_is_read():
    cluster = from_environment(tf_config({"worker": ["a:1", "b:2"]}, index=1))
    assert cluster == Cluster(workers=("a:1", "b:2"), index=1, origin="TF_CONFIG")
    assert from_environment(tf_config({"worker": ["[::1]:1", "b:2"]})).index == 0
    assert from_environment(tf_config({"worker": ["a:1"]})).workers == ("a:1",), "a cluster of one"


def test_a_cluster_survives_its_own_tf_config():
    cluster = Cluster(workers=("a:1", "b:2", "c:3"), index=2, origin="TF_CONFIG")
    assert from_environment({"TF_CONFIG": cluster.tf_config()}) == cluster


def test_a_chief_is_worker_0():
    cluster = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    assert from_environment(tf_config(cluster, "chief")).index == 0
    found = from_environment(tf_config(cluster, "worker", 1))
    assert (found.workers, found.index) == (("c:1", "a:1", "b:1"), 2)


def test_an_evaluator_beside_the_workers_is_none_of_theirs():
    assert from_environment(tf_config({"worker": ["a:1", "b:1"], "evaluator": ["e:1"]})).workers == ("a:1", "b:1")


def test_what_the_launcher_set_is_local():
    assert from_environment({**tf_config({"worker": ["a:1", "b:1"]}), "MODETRAIN_WORKER": "0"}).origin == "local"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "TF_CONFIG: []: it must be an object with cluster and task"),
        ("3", "TF_CONFIG: 3: it must be an object with cluster and task"),
        ("{}", "cluster is None"),
        ('{"cluster": {"worker": ["a:1"]}}', "task is None"),
        ('{"cluster": [], "task": {}}', "cluster is []"),
    ],
)
def test_what_is_no_tf_config_is_refused(text, said):
    with pytest.raises(ConfigError) as caught:
        from_environment({"TF_CONFIG": text})
    assert str(caught.value).startswith("TF_CONFIG: ")
    assert said in str(caught.value)
    assert 'Set it to, for example, TF_CONFIG=\'{"cluster"' in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "said"),
    [
        ({"worker": []}, "worker", 0, "cluster.worker is empty"),
        ({"worker": "a:1"}, "worker", 0, "cluster.worker is 'a:1': it must be a list"),
        ({"worker": ["a"]}, "worker", 0, "cluster.worker has 'a': it must be host:port"),
        ({"worker": ["a:0"]}, "worker", 0, "cluster.worker has 'a:0'"),
        ({"worker": ["a:70000"]}, "worker", 0, "a port from 1 to 65535"),
        ({"worker": ["a:1", "b:1", "a:1"]}, "worker", 0, "lists a:1 twice"),
        ({"chief": ["a:1", "b:1"]}, "chief", 0, "there can be one chief"),
        ({"worker": ["a:1", "b:1"]}, "worker", 2, "task is worker 2: cluster.worker lists 2"),
        ({"worker": ["a:1", "b:1"]}, "worker", -1, "task is worker -1"),
        ({"worker": ["a:1", "b:1"]}, "worker", None, "task.index is None"),
        ({"worker": ["a:1", "b:1"]}, "worker", True, "task.index is True"),
        ({"worker": ["a:1", "b:1"]}, "chief", 0, "task is chief 0: cluster.chief lists 0"),
        ({"worker": ["a:1", "b:1"]}, "master", 0, "task.type is 'master': it must be 'worker'"),
        ({"worker": ["a:1"], "ps": ["p:1"]}, "worker", 0, "no parameter servers. Leave ps out"),
        ({"worker": ["a:1"], "ps": ["p:1"]}, "ps", 0, "no parameter servers. Leave ps out"),
        ({"worker": ["a:1"], "evaluator": ["e:1"]}, "evaluator", 0, "modetrain evaluates on all workers"),
    ],
)
def test_a_tf_config_that_cannot_work_is_refused(cluster, kind, index, said):
    with pytest.raises(ConfigError) as caught:
        from_environment(tf_config(cluster, kind, index))
    assert said in str(caught.value)


def test_tf_config_goes_before_slurm():
    assert from_environment({**slurm(), **tf_config({"worker": ["a:1"]})}).origin == "TF_CONFIG"


# --- Slurm -----------------------------------------------------------------------------------------------------------


def slurm(rank=0, tasks=4, nodes="n[1-2]", per_node="2(x2)", **more):
    step = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NODELIST": nodes}
    step |= {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_JOB_ID": 42}
    return {name: str(value) for name, value in {**step, **more}.items() if value is not None}


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node7", ["node7"]),
        ("a,b", ["a", "b"]),
        ("node[01-03,07],gpu5", ["node01", "node02", "node03", "node07", "gpu5"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("rack[1-2]n[01-02]", ["rack1n01", "rack1n02", "rack2n01", "rack2n02"]),
        ("n[1-2]-ib,m[3,5].local", ["n1-ib", "n2-ib", "m3.local", "m5.local"]),
        ("n[0-9999]", [f"n{number}" for number in range(10000)]),
    ],
)
def test_lists_of_nodes(text, nodes):
    assert expand_nodes(text) == nodes


@pytest.mark.parametrize(
    "text", ["", "n[1-2", "n1-2]", "n[]", "n[3-1]", "n[a-b]", "n[1-2]],m", "a,,b", "n[[1]]", "a b"]
)
def test_what_is_no_list_of_nodes_is_refused(text):
    with pytest.raises(ConfigError, match=r"^SLURM_STEP_NODELIST=.*It must look like node\[01-03,07\]"):
        expand_nodes(text)


def test_a_node_listed_twice_is_refused():
    with pytest.raises(ConfigError, match="a node is listed twice"):
        expand_nodes("n[1-3],n2")


def test_tasks_per_node():
    assert expand_tasks("4") == [4]
    assert expand_tasks("2(x3),1") == [2, 2, 2, 1]
    for text in ("", "2x3", "2(x)", "2(x3", "a"):
        with pytest.raises(ConfigError, match=r"^SLURM_STEP_TASKS_PER_NODE=.*It must look like 2\(x3\),1"):
            expand_tasks(text)


def hosts(**given):
    found = [from_environment(slurm(rank, **given)) for rank in range(given.get("tasks", 4))]
    assert [cluster.index for cluster in found] == list(range(len(found)))
    assert len({cluster.workers for cluster in found}) == 1, "all tasks must agree"
    return [tuple(address.split(":")) for address in found[0].workers]


def test_tasks_fill_one_node_after_the_other():
    assert hosts(tasks=5, nodes="a,b,c", per_node="2(x2),1", SLURM_JOB_ID=0) == [
        *(("a", "15000"), ("a", "15001"), ("b", "15000"), ("b", "15001"), ("c", "15000")),
    ]


@pytest.mark.parametrize(
    ("distribution", "order"),
    [
        ("block", "aaabbc"),
        ("block:cyclic", "aaabbc"),
        ("cyclic", "abcaba"),
        ("cyclic:block", "abcaba"),
        ("cyclic,Pack", "abcaba"),
        ("plane", "aabbca"),
        ("unknown", "aaabbc"),
    ],
)
def test_tasks_are_placed_as_slurm_was_told(distribution, order):
    more = {"SLURM_DISTRIBUTION": distribution, "SLURM_DIST_PLANESIZE": 2}
    found = hosts(tasks=6, nodes="a,b,c", per_node="3,2,1", SLURM_JOB_ID=0, **more)
    assert "".join(host for host, _ in found) == order
    assert len(set(found)) == 6


def test_an_arbitrary_distribution_is_refused():
    with pytest.raises(ConfigError, match=r"SLURM_DISTRIBUTION=arbitrary.*Type srun --distribution=block"):
        hosts(SLURM_DISTRIBUTION="arbitrary")


def test_a_place_that_slurm_contradicts_is_refused():
    assert hosts(SLURM_LOCALID=None) == hosts()
    from_environment(slurm(3, SLURM_NODEID=1, SLURM_LOCALID=1))
    with pytest.raises(ConfigError, match=r"SLURM_NODEID=0 for SLURM_PROCID=3: it should be 1 .*--distribution=block"):
        from_environment(slurm(3, SLURM_NODEID=0, SLURM_LOCALID=1))
    with pytest.raises(ConfigError, match=r"SLURM_LOCALID=0 for SLURM_PROCID=3: it should be 1"):
        from_environment(slurm(3, SLURM_NODEID=1, SLURM_LOCALID=0))


def test_ports_are_below_those_of_outgoing_connections_and_differ_between_jobs_and_steps():
    ports = set()
    for job in (1, 2, 4242, 123_456_789):
        for step in (0, 1, 2):
            found = hosts(SLURM_JOB_ID=job, SLURM_STEP_ID=step)
            ports.add(int(found[0][1]))
            assert all(1024 < int(port) < 32768 for _, port in found)
    assert len(ports) == 12


def test_the_port_can_be_chosen():
    assert hosts(MODETRAIN_PORT=7000)[1] == ("n1", "7001")
    assert from_environment(slurm(MODETRAIN_PORT=7000), port=8000).workers[0] == "n1:8000"
    with pytest.raises(ConfigError, match=r"MODETRAIN_PORT=65535 with 2 tasks on a node.*65534 or less"):
        hosts(MODETRAIN_PORT=65535)
    for wrong in ("x", "0", "65536", "-1"):
        with pytest.raises(ConfigError, match=f"MODETRAIN_PORT='{wrong}': not a port"):
            hosts(MODETRAIN_PORT=wrong)


def test_the_jobs_own_variables_stand_in_for_the_steps():
    step = {"SLURM_STEP_NODELIST": None, "SLURM_STEP_TASKS_PER_NODE": None, "SLURM_JOB_ID": None}
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_JOBID": 42}
    assert hosts(**step, **job) == hosts()


def test_who_is_not_one_of_several_tasks_is_no_worker():
    # a batch script: SLURM_PROCID and SLURM_NTASKS are there, and nobody else would come
    assert from_environment({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None
    # a shell of salloc on the login node
    assert from_environment({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-4]"}) is None
    # srun --pty bash
    assert from_environment(slurm(tasks=1, nodes="n1", per_node="1")) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 4}, "SLURM_PROCID=4 with SLURM_STEP_NUM_TASKS=4: ranks go from 0 to 3"),
        ({"rank": "x"}, "SLURM_PROCID='x': not a whole number"),
        ({"tasks": "x"}, "SLURM_STEP_NUM_TASKS='x': not a whole number"),
        ({"nodes": None}, "SLURM_PROCID=0 without SLURM_STEP_NODELIST"),
        ({"per_node": None}, "SLURM_PROCID=0 without SLURM_STEP_TASKS_PER_NODE"),
        ({"per_node": "4"}, "SLURM_STEP_TASKS_PER_NODE=4 has 1 nodes, SLURM_STEP_NODELIST=n[1-2] has 2"),
        ({"per_node": "2,1"}, "SLURM_STEP_TASKS_PER_NODE=2,1 adds up to 3 tasks, SLURM_STEP_NUM_TASKS=4"),
        ({"SLURM_JOB_ID": None}, "SLURM_PROCID=0 without SLURM_JOB_ID"),
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID='x': not a number, so no port can be computed. Set MODETRAIN_PORT"),
        ({"SLURM_DISTRIBUTION": "plane"}, "SLURM_DIST_PLANESIZE='': not a whole number"),
    ],
)
def test_a_step_that_contradicts_itself_is_refused(given, said):
    with pytest.raises(ConfigError) as caught:
        from_environment(slurm(**given))
    assert said in str(caught.value)


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def pod(index=0, **more):
    own = {"MODETRAIN_WORKERS": 3, "MODETRAIN_JOB": "mine", "MODETRAIN_SERVICE": "peers", "JOB_COMPLETION_INDEX": index}
    return {name: str(value) for name, value in {**own, **more}.items() if value is not None}


def test_pods_of_an_indexed_job_are_workers():
    for index in range(3):
        cluster = from_environment(pod(index))
        assert cluster.workers == ("mine-0.peers:2222", "mine-1.peers:2222", "mine-2.peers:2222")
        assert (cluster.index, cluster.origin) == (index, "kubernetes")
    assert from_environment(pod(MODETRAIN_PORT=7000)).workers[0] == "mine-0.peers:7000"
    assert from_environment(pod(MODETRAIN_WORKERS=1)).workers == ("mine-0.peers:2222",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MODETRAIN_WORKERS": None}, "MODETRAIN_JOB=mine without MODETRAIN_WORKERS"),
        ({"MODETRAIN_JOB": None}, "MODETRAIN_WORKERS=3 without MODETRAIN_JOB"),
        ({"MODETRAIN_SERVICE": ""}, "MODETRAIN_WORKERS=3 without MODETRAIN_SERVICE"),
        ({"JOB_COMPLETION_INDEX": None}, "completionMode: Indexed"),
        ({"MODETRAIN_WORKERS": "three"}, "MODETRAIN_WORKERS='three': not a whole number"),
        ({"MODETRAIN_WORKERS": "0"}, "MODETRAIN_WORKERS=0: at least one worker"),
        ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX=3 with MODETRAIN_WORKERS=3: the job has more pods"),
        ({"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX='x': not a whole number"),
        ({"MODETRAIN_SERVICE": "peers:2222"}, "MODETRAIN_SERVICE='peers:2222': not a DNS name"),
        ({"MODETRAIN_JOB": "My_Job"}, "MODETRAIN_JOB='My_Job': not a DNS name"),
    ],
)
def test_a_job_that_contradicts_itself_is_refused(given, said):
    with pytest.raises(ConfigError) as caught:
        from_environment(pod(**given))
    assert said in str(caught.value)


def test_a_step_goes_before_a_job():
    assert from_environment({**slurm(), **pod()}).origin == "slurm"


# --- without TensorFlow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["environment", "launcher.launch"])
def test_tensorflow_is_not_imported(module):
    code = f"import sys, modetrain.cluster.{module}; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
