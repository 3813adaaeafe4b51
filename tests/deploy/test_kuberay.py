"""The Kubernetes manifests pass the operator's own schemas and say what we rely on. Offline: nothing asks a cluster."""

import functools
import json
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from kuberay import KUBERAY, rayjobs, submitter_line
from processes import ROOT
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
    _get_ray_resources_from_group_spec,
)
from stand_ins import StandIns

from cxrpipe.cli import parse
from cxrpipe.runs.lock import STALE_S

GPU_CHECK = "cxrpipe.models.gpu_check"
FAILED = "Job entrypoint command failed with exit code"
"""How Ray's message about a failed job begins; test_submitter.py asks Ray."""

PREPROCESS, PREDICT = ("preprocess", "predict")


def cronjob() -> dict[str, Any]:
    documents = yaml.safe_load_all((KUBERAY / "cronjob.yaml").read_text())
    return next(each for each in documents if each["kind"] == "CronJob")


@pytest.fixture(params=["score", "train", "nightly"])
def rayjob(request: pytest.FixtureRequest) -> dict[str, Any]:
    return rayjobs()[request.param]


def pods(rayjob: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that the manifest describes: submitter, head and workers."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield rayjob["spec"]["submitterPodTemplate"]["spec"]
    yield from (group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])


def strict(schema: Any) -> Any:
    """As the API server takes it: a field that the schema does not know is an error, an int-or-string is either."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("pattern", None)  # Kubernetes holds it against strings alone
        return made | {"type": ["integer", "string"]}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    return made


@functools.cache
def loaded(file: Path) -> Any:
    """1.4 MB of YAML, read once."""
    return yaml.load(file.read_text(), Loader=yaml.CSafeLoader)


def test_the_operator_takes_it(rayjob: dict[str, Any], real_data: Path) -> None:
    schemas = real_data / "kuberay" / "ray.io_rayjobs.yaml"
    if not schemas.is_file():
        pytest.skip(f"{schemas} not found: the operator's schemas are no part of the repository")
    definition = loaded(schemas)
    kind, wanted = rayjob["apiVersion"].split("/")
    assert definition["spec"]["group"] == kind
    (versioned,) = [each for each in definition["spec"]["versions"] if each["name"] == wanted]
    schema = strict(versioned["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    jsonschema.Draft7Validator(schema).validate(rayjob)
    with pytest.raises(jsonschema.ValidationError):  # and it would tell a wrong word
        jsonschema.Draft7Validator(schema).validate(rayjob | {"spec": rayjob["spec"] | {"backofLimit": 3}})


class Submitted(NamedTuple):
    submitter: list[list[str]]
    """Calls in the pod of the submitter."""
    head: list[list[str]]
    """Calls on the head."""
    status: int
    """Exit status of the submitter."""


def submit(rayjob: dict[str, Any], folder: Path, status: int = 0) -> Submitted:
    """Run the line of the submitter, and what reaches the head, with stand-ins.

    status  of `ray job logs --follow`
    """
    pod, head = StandIns(folder / "pod"), StandIns(folder / "head")
    pod.add("ray", f'[ "$2" = status ] && exit 1; [ "$2" = logs ] && exit {status}; exit 0')
    for program in ("python", "sleep"):
        pod.add(program)
        head.add(program)
    done = subprocess.run(["/bin/bash", "-ce", "--", submitter_line(rayjob)], env=pod.env())
    (words,) = [call for call in pod.calls() if call[:3] == ["ray", "job", "submit"]]
    # Ray 2.60 joins the words (dashboard/modules/job/cli.py), and the head runs them in a shell (job_supervisor.py).
    on_head = shlex.join(words[words.index("--") + 1 :])
    subprocess.run(on_head, shell=True, env=head.env(), check=True)
    return Submitted(pod.calls(), head.calls(), done.returncode)


def test_the_whole_entrypoint_runs_on_the_head_and_nothing_of_it_in_the_submitter(
    rayjob: dict[str, Any], tmp_path: Path
) -> None:
    submitted = submit(rayjob, tmp_path)
    assert submitted.head == [rayjob["spec"]["entrypoint"].split()]
    health, *of_ray = submitted.submitter
    assert health[:2] == ["python", "-c"]
    assert [call[:3] for call in of_ray] == [["ray", "job", verb] for verb in ("status", "submit", "logs")]
    words = of_ray[1]
    runtime_env = json.loads(words[words.index("--runtime-env-json") + 1])
    assert runtime_env == yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])
    assert submitted.status == 0


def test_the_submitter_fails_where_the_logs_of_the_job_end_early(rayjob: dict[str, Any], tmp_path: Path) -> None:
    assert submit(rayjob, tmp_path, status=1).status == 1


def test_a_shell_operator_would_cut_the_entrypoint(rayjob: dict[str, Any], tmp_path: Path) -> None:
    """So the test above can fail: this entrypoint was once shipped."""
    rayjob["spec"]["entrypoint"] = "sleep 200 && " + rayjob["spec"]["entrypoint"]
    submitted = submit(rayjob, tmp_path)
    assert submitted.head == [["sleep", "200"]]
    assert submitted.submitter[3][:2] == ["python", rayjob["spec"]["entrypoint"].split()[4]]


def test_every_word_of_the_entrypoint_means_itself_in_a_shell(rayjob: dict[str, Any]) -> None:
    words = rayjob["spec"]["entrypoint"].split()
    assert shlex.join(words) == " ".join(words)


def test_quotes_group_words_and_variables_are_those_of_the_submitter(rayjob: dict[str, Any], tmp_path: Path) -> None:
    rayjob["spec"]["entrypoint"] = """python jobs/score.py --archive "s3://a b/c" '$HOME' $NOT_SET"""
    assert submit(rayjob, tmp_path).head == [["python", "jobs/score.py", "--archive", "s3://a b/c", "$HOME"]]


def program(rayjob: dict[str, Any]) -> tuple[str, Any]:
    """The name of the program that the entrypoint runs, and its settings."""
    python, job, *words = rayjob["spec"]["entrypoint"].split()
    assert python == "python"
    assert (ROOT / job).is_file()
    name = Path(job).stem
    return name, parse(name, words)


def test_the_entrypoint_asks_for_all_that_the_pools_may_grow_to(rayjob: dict[str, Any]) -> None:
    """As the autoscaler of Ray reads the manifest."""
    _, settings = program(rayjob)
    cluster = {"metadata": {"name": "c", "namespace": "n"}, "spec": rayjob["spec"]["rayClusterSpec"]}
    pools = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]

    def most(resource: str, *names: str) -> float:
        return sum(pools[name]["max_workers"] * pools[name]["resources"].get(resource, 0) for name in names)

    workers = [name for name in pools if name != "headgroup"]
    assert pools["headgroup"]["resources"]["CPU"] == 0
    assert settings.resources.gpus == most("GPU", *workers) > 0
    assert settings.resources.cpus == most("CPU", PREPROCESS if PREPROCESS in workers else "train")


def test_scoring_goes_by_the_labels_of_the_pools() -> None:
    for name in ("score", "nightly"):
        rayjob = rayjobs()[name]
        groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert [group["labels"] for group in groups] == [{"role": PREPROCESS}, {"role": PREDICT}]
        assert program(rayjob)[1].resources.placement == "labels"


def test_a_training_takes_a_gpu_for_each_process_and_no_cpu_in_their_place() -> None:
    name, settings = program(rayjobs()["train"])
    assert (name, settings.use_gpu, settings.workers) == ("train", "on", settings.resources.gpus)


def test_an_attempt_waits_until_the_lock_of_a_killed_one_is_stale() -> None:
    for name in ("score", "nightly"):
        assert program(rayjobs()[name])[1].wait_for_lock_s > STALE_S


def test_retry_is_resume_and_the_submitter_does_not_retry_by_itself(rayjob: dict[str, Any]) -> None:
    has_cronjob = "jobs/nightly.py" in rayjob["spec"]["entrypoint"]  # which tries again by itself
    assert (rayjob["spec"]["backoffLimit"] == 0) == has_cronjob
    assert rayjob["spec"]["submitterConfig"]["backoffLimit"] == 0
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True


def test_every_machine_asks_for_the_token_of_the_secret(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cxrpipe-token"}


def test_only_gpu_machines_have_the_gpu_image_and_they_check_the_gpu_first(rayjob: dict[str, Any]) -> None:
    assert find_spec(GPU_CHECK)
    for pod in pods(rayjob):
        init, containers = pod.get("initContainers", []), pod["containers"]
        has_gpu = ["nvidia.com/gpu" in container["resources"]["limits"] for container in init + containers]
        target = "gpu" if any(has_gpu) else "cpu"
        assert {container["image"] for container in init + containers} == {f"REGISTRY/cxrpipe:0.1.0-{target}"}
        assert [container["command"] for container in init] == [["python", "-m", GPU_CHECK]] * any(has_gpu)
        assert all(has_gpu) == any(has_gpu)


def test_the_autoscaler_of_ray_does_not_count_a_mig_slice_unless_told() -> None:
    """What docs/operate.md says of slices."""
    group = rayjobs()["score"]["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    for amounts in resources.values():
        amounts["nvidia.com/mig-1g.10gb"] = amounts.pop("nvidia.com/gpu")
    assert "GPU" not in _get_ray_resources_from_group_spec(group, is_head=False)
    told = group | {"rayStartParams": {"num-gpus": "1"}}
    assert _get_ray_resources_from_group_spec(told, is_head=False)["GPU"] == 1


def test_no_container_is_root_or_holds_a_credential(rayjob: dict[str, Any]) -> None:
    """What the Pod Security Standard `restricted` asks for, in every pod that the manifest can describe."""
    locked_down = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert rayjob["spec"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"] == locked_down
    for pod in pods(rayjob):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.get("initContainers", []) + pod["containers"]:
            assert container["securityContext"] == locked_down
            names = [variable["name"] for variable in container.get("env", [])]
            assert not [name for name in names if "KEY" in name or "TOKEN" in name]


def test_only_the_head_may_talk_to_kubernetes(rayjob: dict[str, Any]) -> None:
    """The operator lets its service account delete pods: the autoscaler in the head does that."""
    assert {pod["serviceAccountName"] for pod in pods(rayjob)} == {"cxrpipe"}
    assert [pod.get("automountServiceAccountToken", True) for pod in pods(rayjob)][:2] == [False, True]
    assert not any(pod.get("automountServiceAccountToken", True) for pod in list(pods(rayjob))[2:])


def test_the_jobs_differ_in_their_entrypoint_and_pools_alone() -> None:
    score, train = (rayjobs()[name]["spec"] for name in ("score", "train"))
    for rayjob in (score, train):
        del rayjob["entrypoint"], rayjob["activeDeadlineSeconds"]
        *_, gpu_pool = rayjob["rayClusterSpec"].pop("workerGroupSpecs")
        rayjob["gpu pool"] = gpu_pool["template"]
    assert score == train


def test_two_nights_never_run_at_once() -> None:
    spec = cronjob()["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    subprocess.run(["sh", "-n"], input=container["args"][0], text=True, check=True)


@pytest.mark.parametrize(
    ("states", "attempts", "status"),
    [
        ([":Running:RUNNING::", ":Complete:SUCCEEDED::Job finished successfully."], 1, 0),
        (["unreachable", ":Complete:SUCCEEDED::"], 1, 0),
        ([f":Failed:FAILED:AppFailed:{FAILED} 1, last", "::::", ":Complete:SUCCEEDED::"], 2, 0),
        ([":Failed::AppFailed:Ray head pod not found."] * 4, 4, 1),
        ([f":Failed:FAILED:AppFailed:{FAILED} 2, last"], 1, 1),
        ([f":Failed:FAILED:AppFailed:{FAILED} 3, last"], 1, 1),
        ([f":Failed:FAILED:AppFailed:{FAILED} 5. No logs"], 1, 1),
        ([":Failed::DeadlineExceeded:The RayJob has passed"], 1, 1),
        ([":Complete:STOPPED::"], 1, 1),
        ([":ValidationFailed::ValidationFailed:The RayJob spec is invalid"], 1, 1),
        (["deleted"], 1, 1),
    ],
)
def test_a_night_is_tried_again_where_it_broke_and_not_where_it_answered(
    tmp_path: Path, states: list[str], attempts: int, status: int
) -> None:
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    kubectl = StandIns(tmp_path / "pod")
    kubectl.add("sleep")
    kubectl.add(
        "kubectl",
        f"""cd {tmp_path}
        [ $1 = create ] && echo rayjob.ray.io/cxrpipe-nightly-1 && exit 0
        read -r state < states; sed -i 1d states
        [ "$state" = unreachable ] && exit 1
        [ "$state" = deleted ] || printf %s "$state" """,
    )
    (container,) = cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    done = subprocess.run([*container["command"], *container["args"]], env=kubectl.env(), timeout=30)
    assert done.returncode == status
    assert sum(call[:2] == ["kubectl", "create"] for call in kubectl.calls()) == attempts
    assert (tmp_path / "states").read_text() == ""
