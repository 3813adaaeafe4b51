"""The sections of docs/operate.md for Kubernetes and AWS as a new user types them, with stand-ins for the cloud."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore.validate import ParamValidator
from kuberay import HEADING as KUBERNETES
from pages import blocks, commands
from processes import ROOT
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli
from stand_ins import StandIns

from cxrpipe.cli import parse

AWS = "AWS: from nothing to a scored archive"
PROGRAMS = ("docker", "helm", "kubectl", "aws", "openssl", "python", "pip", "ray")
ANSWERS = {
    "kubectl": """
        case "$*" in
            *"--output name"*) echo rayjob.ray.io/cxrpipe-1 ;;
            *"=/dev/stdin"*) cat > nightly.yaml ;;
        esac""",
    "aws": """
        case "$2" in
            get-parameter) echo ami-0123456789abcdef0 ;;
            get-role) echo arn:aws:iam::123456789012:role/cxrpipe-pods ;;
        esac""",
    "openssl": "echo 0123456789abcdef",
    "pip": "mkdir dist; touch dist/cxrpipe.whl",
}


class Typed:
    """The commands of some sections, typed into one shell in a copy of the repository's files for clusters."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder / "clone"
        shutil.copytree(ROOT / "deploy", self.folder / "deploy")
        for name in ("cluster.yaml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        programs = StandIns(folder)
        for name in PROGRAMS:
            programs.add(name, ANSWERS.get(name, ""))
        subprocess.run(["bash", "-euc", script], cwd=self.folder, env=programs.env(), check=True, timeout=60)
        self.calls = programs.calls()

    def of(self, *words: str) -> list[list[str]]:
        """The calls that begin with these words, without them."""
        return [call[len(words) :] for call in self.calls if call[: len(words)] == list(words)]

    def documents(self, name: str) -> list[dict[str, Any]]:
        return [each for each in yaml.safe_load_all((self.folder / name).read_text()) if each]

    def names_left(self) -> Iterator[str]:
        """Names that the page should have filled in, in lines that are no comments."""
        for file in [self.folder / "cluster.yaml", *(self.folder / "deploy").rglob("*.*")]:
            if file.suffix in (".yaml", ".json"):
                lines = [line.partition("#")[0] for line in file.read_text().splitlines()]
                yield from re.findall(r"REGISTRY|BUCKET|\S*-EDIT", "\n".join(lines))


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    return Typed(tmp_path_factory.mktemp("kubernetes"), "\n".join(blocks("operate.md", KUBERNETES)))


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """It begins with the first block of the other section, which names the bucket."""
    names = blocks("operate.md", KUBERNETES)[0]
    return Typed(tmp_path_factory.mktemp("aws"), "\n".join([names, *blocks("operate.md", AWS)]))


def flag(words: list[str], name: str) -> str:
    return words[words.index(f"--{name}") + 1]


def pods(rayjob: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield from (group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])


# ---- Kubernetes ---------------------------------------------------------------------------------------------------


def test_every_name_is_filled_in(kubernetes: Typed) -> None:
    assert set(kubernetes.names_left()) == {"ami-EDIT"}  # of the other section


def test_the_images_of_the_manifests_are_built_and_pushed(kubernetes: Typed) -> None:
    built = {flag(call, "tag"): flag(call, "target") for call in kubernetes.of("docker", "build")}
    used = set(re.findall(r"image: (\S+/cxrpipe:\S+)", (kubernetes.folder / "deploy/kuberay/rayjob.yaml").read_text()))
    assert used == set(built) == {image for (image,) in kubernetes.of("docker", "push")}
    dockerfile = (ROOT / "Dockerfile").read_text()
    for image, target in built.items():
        assert image.endswith(f"-{target}")
        assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE)


def test_the_operator_knows_the_secret_of_the_token(kubernetes: Typed) -> None:
    """`authOptions.secretName` begins with KubeRay 1.6.0 (ray-operator/apis/ray/v1/raycluster_types.go)."""
    (install,) = kubernetes.of("helm", "install")
    assert tuple(int(number) for number in flag(install, "version").split(".")) >= (1, 6, 0)


@pytest.mark.parametrize("manifest", ["rayjob", "train"])
def test_the_secret_and_the_account_are_those_of_the_pods(kubernetes: Typed, manifest: str) -> None:
    (rayjob,) = kubernetes.documents(f"deploy/kuberay/{manifest}.yaml")
    (secret,) = kubernetes.of("kubectl", "create", "secret", "generic")
    assert secret[0] == rayjob["spec"]["rayClusterSpec"]["authOptions"]["secretName"]
    assert secret[1] == "--from-literal=auth_token=0123456789abcdef"  # RAY_AUTH_TOKEN_SECRET_KEY of the operator
    (account,) = kubernetes.of("kubectl", "create", "serviceaccount")
    assert {pod["serviceAccountName"] for pod in pods(rayjob)} == set(account)


def test_the_role_is_bound_to_the_account_in_the_namespace(kubernetes: Typed) -> None:
    (association,) = kubernetes.of("aws", "eks", "create-pod-identity-association")
    assert [flag(association, "namespace")] in kubernetes.of("kubectl", "create", "namespace")
    assert [flag(association, "service-account")] in kubernetes.of("kubectl", "create", "serviceaccount")
    assert flag(association, "role-arn").endswith("role/cxrpipe-pods")


def test_the_jobs_read_and_write_where_the_archive_was_put(kubernetes: Typed) -> None:
    (made,) = kubernetes.of("aws", "s3", "mb")
    (copied,) = kubernetes.of("aws", "s3", "cp")
    train, score, nightly = (
        parse(name, kubernetes.documents(file)[0]["spec"]["entrypoint"].split()[2:])
        for name, file in {
            "train": "deploy/kuberay/train.yaml",
            "score": "deploy/kuberay/rayjob.yaml",
            "nightly": "nightly.yaml",
        }.items()
    )
    assert train.archive == score.archive == nightly.archive == copied[-1]
    assert score.models == nightly.models == (train.out,)
    assert score.out == nightly.out
    for url in (train.archive, train.out, score.out, nightly.studies):
        assert url.startswith(made[0] + "/")


def test_every_file_that_is_applied_is_there_and_jobs_are_waited_for(kubernetes: Typed) -> None:
    files = [flag(call, "filename") for call in kubernetes.calls if "--filename" in call]
    assert sorted(Path(file).name for file in files) == ["cronjob.yaml", "rayjob.yaml", "train.yaml"]
    assert all((kubernetes.folder / file).is_file() for file in files)
    assert [call[0] for call in kubernetes.of("kubectl", "wait")] == ["rayjob.ray.io/cxrpipe-1"] * 2


def test_the_night_is_the_job_that_the_cronjob_creates(kubernetes: Typed) -> None:
    (cronjob,) = [each for each in kubernetes.documents("deploy/kuberay/cronjob.yaml") if each["kind"] == "CronJob"]
    (config,) = kubernetes.of("kubectl", "create", "configmap")
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (volume,) = [volume["configMap"]["name"] for volume in pod["volumes"]]
    assert config == [volume, "--from-file=rayjob.yaml=/dev/stdin"]
    assert [[f"--from=cronjob/{cronjob['metadata']['name']}", "first-night"]] == kubernetes.of(
        "kubectl", "create", "job"
    )
    (rayjob,) = kubernetes.documents("nightly.yaml")
    assert (rayjob["kind"], rayjob["metadata"]["generateName"]) == ("RayJob", "cxrpipe-nightly-")


# ---- AWS ----------------------------------------------------------------------------------------------------------


def test_ray_accepts_the_cluster_with_every_name_filled_in(aws: Typed) -> None:
    assert not [name for name in aws.names_left() if name != "REGISTRY"]
    (cluster,) = aws.documents("cluster.yaml")
    validate_config(prepare_config(cluster))
    images = {pool["node_config"]["ImageId"] for pool in cluster["available_node_types"].values()}
    assert images == {"ami-0123456789abcdef0"}


def test_the_machines_have_the_profiles_that_are_made(aws: Typed) -> None:
    (cluster,) = aws.documents("cluster.yaml")
    used = {pool["node_config"]["IamInstanceProfile"]["Name"] for pool in cluster["available_node_types"].values()}
    assert used == {flag(call, "instance-profile-name") for call in aws.of("aws", "iam", "create-instance-profile")}
    head = json.loads((aws.folder / "deploy/aws/head.json").read_text())
    (passed,) = [each["Resource"] for each in head["Statement"] if each["Action"] == "iam:PassRole"]
    assert passed.endswith("role/cxrpipe-worker")
    operations = botocore.session.get_session().get_service_model("ec2").operation_names
    assert {action.removeprefix("ec2:") for action in head["Statement"][0]["Action"]} <= set(operations)


def test_the_wheel_lies_where_the_machines_look_for_it(aws: Typed) -> None:
    (cluster,) = aws.documents("cluster.yaml")
    folder = aws.folder / cluster["file_mounts"]["~/cxrpipe-dist"]
    assert {file.name for file in folder.iterdir()} == {"constraints.txt", "cxrpipe.whl"}


def test_ray_takes_every_command(aws: Typed) -> None:
    calls = aws.of("ray")
    assert [call[0] for call in calls if call[0] in ("up", "down")] == ["up", "down"]
    for call in calls:
        understood(ray_cli, call)


def understood(command: click.Command, words: list[str]) -> None:
    """Parse the words as the command does, and run nothing; click.UsageError where it does not take them."""
    while isinstance(command, click.Group):
        context = command.make_context(command.name, words[:0], resilient_parsing=True)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, list(words))


# ---- both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["kubernetes", "aws"])
def test_aws_knows_every_operation_and_its_settings(section: str, request: pytest.FixtureRequest) -> None:
    typed: Typed = request.getfixturevalue(section)
    calls = [call for call in typed.of("aws") if call[0] != "s3"]
    assert calls
    for service, verb, *words in calls:
        name = "".join(part.capitalize() for part in verb.split("-"))
        operation = botocore.session.get_session().get_service_model(service).operation_model(name)
        members = {re.sub(r"(?<!^)(?=[A-Z])", "-", member).lower(): member for member in operation.input_shape.members}
        given = dict(zip(words[::2], words[1::2], strict=True))
        settings = {members[key[2:]]: value for key, value in given.items() if key not in ("--query", "--output")}
        assert ParamValidator().validate(settings, operation.input_shape).generate_report() == ""
        for file in [value.removeprefix("file://") for value in settings.values() if value.startswith("file://")]:
            assert json.loads((typed.folder / file).read_text())["Version"] == "2012-10-17"


@pytest.mark.parametrize("section", ["kubernetes", "aws"])
def test_the_lines_of_python_find_what_they_import(section: str, request: pytest.FixtureRequest) -> None:
    for option, code in request.getfixturevalue(section).of("python"):
        assert option == "-c"
        compile(code, "page", "exec")
        imports = [line for line in code.split("; ") if line.startswith(("from ", "import "))]
        exec("\n".join(imports), {})


def test_no_command_stands_twice() -> None:
    lines = [line for section in (KUBERNETES, AWS) for line in commands("operate.md", section)]
    assert len(lines) == len(set(lines))
