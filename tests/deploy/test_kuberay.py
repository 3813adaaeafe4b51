"""The Kubernetes manifests pass the operator's own schemas and say what we rely on. Offline: nothing asks a cluster."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cxrpipe.cli import parse

KUBERAY = Path(__file__).parents[2] / "deploy" / "kuberay"


def rayjobs() -> dict[str, dict[str, Any]]:
    """The job as it stands, and the nightly one that the head of cronjob.yaml makes of it."""
    (sed,) = re.findall(r"^#     (sed (?:.*\\\n#)*.*) > nightly.yaml$", (KUBERAY / "cronjob.yaml").read_text(), re.M)
    command = sed.replace("\\\n#", "")
    nightly = subprocess.run(command, shell=True, cwd=KUBERAY.parents[1], capture_output=True, text=True, check=True)
    return {"job": yaml.safe_load((KUBERAY / "rayjob.yaml").read_text()), "nightly": yaml.safe_load(nightly.stdout)}


def cronjob() -> dict[str, Any]:
    documents = yaml.safe_load_all((KUBERAY / "cronjob.yaml").read_text())
    return next(each for each in documents if each["kind"] == "CronJob")


@pytest.fixture(params=["job", "nightly"])
def rayjob(request: pytest.FixtureRequest) -> dict[str, Any]:
    return rayjobs()[request.param]


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


def test_the_operator_takes_it(rayjob: dict[str, Any], real_data: Path) -> None:
    schemas = real_data / "kuberay" / "ray.io_rayjobs.yaml"
    if not schemas.is_file():
        pytest.skip(f"{schemas} not found: the operator's schemas are no part of the repository")
    definition = yaml.load(schemas.read_text(), Loader=yaml.CSafeLoader)
    kind, wanted = rayjob["apiVersion"].split("/")
    assert definition["spec"]["group"] == kind
    (versioned,) = [each for each in definition["spec"]["versions"] if each["name"] == wanted]
    schema = strict(versioned["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    jsonschema.Draft7Validator(schema).validate(rayjob)
    with pytest.raises(jsonschema.ValidationError):  # and it would tell a wrong word
        jsonschema.Draft7Validator(schema).validate(rayjob | {"spec": rayjob["spec"] | {"backofLimit": 3}})


def test_the_entrypoint_is_a_command_that_the_program_takes(rayjob: dict[str, Any]) -> None:
    words = rayjob["spec"]["entrypoint"].partition("python jobs/")[2].split()
    settings = parse(words[0].removesuffix(".py"), words[1:])
    groups = {group["groupName"]: group for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]}

    def capacity(group: str, of: str) -> int:
        (container,) = groups[group]["template"]["spec"]["containers"]
        return groups[group]["maxReplicas"] * int(container["resources"]["limits"][of])

    assert settings.resources.placement == "labels"
    assert settings.resources.cpus == capacity("preprocess", "cpu")
    assert settings.resources.gpus == capacity("predict", "nvidia.com/gpu")


def test_retry_is_resume_and_the_submitter_does_not_retry_by_itself(rayjob: dict[str, Any]) -> None:
    assert rayjob["spec"]["backoffLimit"] > 0
    assert rayjob["spec"]["submitterConfig"]["backoffLimit"] == 0
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True


def test_the_head_does_no_work_and_the_pools_carry_their_labels(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["labels"] for group in cluster["workerGroupSpecs"]] == [{"role": "preprocess"}, {"role": "predict"}]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"]["mode"] == "token"


def test_no_container_is_root_or_holds_a_credential(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not [each["name"] for each in container["env"] if "KEY" in each["name"] or "TOKEN" in each["name"]]


def test_two_nights_never_run_at_once() -> None:
    spec = cronjob()["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    subprocess.run(["sh", "-n"], input=container["args"][0], text=True, check=True)
