"""Render and validate the manifests of `deploy/kubernetes` with the Kubernetes schemas and this version's code."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from core.settings import Settings
from server.cli import app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
EXAMPLES = sorted(path.parent.name for path in FOLDER.glob("examples/*/kustomization.yaml"))
KUBERNETES = "1.33"
OURS = "potstill-"


@cache
def rendered(example):
    """Return the objects of an example as `kubectl kustomize` renders them."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl found: install it to render the manifests")
    run = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "examples" / example)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )
    assert run.returncode == 0, run.stderr
    return tuple(yaml.safe_load_all(run.stdout))


def of_kind(example, kind):
    return {item["metadata"]["name"]: item for item in rendered(example) if item["kind"] == kind}


def process_containers(example):
    """Return the containers with an image of ours, by the name of their deployment."""
    for name, deployment in of_kind(example, "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            if container["command" if "command" in container else "args"][0] == "potstill-server":
                yield name, pod, container


def manifests():
    return [path for path in FOLDER.glob("**/*.yaml") if path.name not in {"kustomization.yaml", "process.yaml"}]


@pytest.fixture(scope="module")
def kubernetes_validate():
    """The package, which imports jsonschema: that builds a grammar of addresses, which takes seconds."""
    import kubernetes_validate

    return kubernetes_validate


@pytest.mark.parametrize("path", manifests(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_manifest_follows_the_schema_of_kubernetes(path, kubernetes_validate):
    for document in yaml.safe_load_all(path.read_text()):
        if document["apiVersion"].split("/")[0].endswith((".sh", ".com")):  # a custom resource
            assert {"apiVersion", "kind", "metadata", "spec"} == set(document)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("example", EXAMPLES)
def test_rendered_objects_follow_the_schema_and_belong_together(example, kubernetes_validate):
    objects = rendered(example)
    for item in objects:
        if "." not in item["apiVersion"] or ".k8s.io" in item["apiVersion"]:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)

    labels = [
        deployment["spec"]["template"]["metadata"]["labels"] for deployment in of_kind(example, "Deployment").values()
    ]
    selectors = [
        item["spec"]["selector"].get("matchLabels", item["spec"]["selector"])
        for item in objects
        if item["kind"] in {"Service", "PodDisruptionBudget"}
    ]
    assert all(any(selector.items() <= pod.items() for pod in labels) for selector in selectors)
    assert all(pod["app.kubernetes.io/part-of"] == "potstill" for pod in labels)
    for scaled in of_kind(example, "ScaledObject").values():
        assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind(example, "Deployment")


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_process_of_the_service_runs_restricted(example):
    names = {name.removeprefix(OURS) for name, _, _ in process_containers(example)}
    assert names >= {"api", "inspector", "scheduler", "ingest", "worker-cpu"}

    for name, pod, container in process_containers(example):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        mounts, volumes = container["volumeMounts"], {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in mounts} <= volumes, name
        assert {"/tmp", "/var/lib/potstill"} <= {mount["mountPath"] for mount in mounts}, name
        assert {"memory"} <= set(container["resources"]["limits"]), name


def test_a_worker_has_time_to_save_a_checkpoint():
    for name, pod, _ in process_containers(EXAMPLES[-1]):
        if "worker" in name:
            assert pod["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_command_and_setting_exists(example):
    known = {f"POTSTILL_{field.upper()}" for field in Settings.model_fields}
    assert set(of_kind(example, "ConfigMap")["potstill"]["data"]) <= known

    commands = set()
    for _, _, container in process_containers(example):
        assert {variable["name"] for variable in container.get("env", ())} <= known
        assert [source for entry in container["envFrom"] for source in entry] == ["configMapRef", "secretRef"]
        commands.add(tuple(container["command"][1:]))
    for arguments in sorted(commands):
        run = CliRunner().invoke(app, [*arguments, "--help"])
        assert run.exit_code == 0, run.output


@pytest.mark.parametrize("name", ["worker.sbatch", "several_machines.sbatch"])
def test_a_slurm_script_is_valid_and_stops_its_processes_in_time(name):
    script = ROOT / "deploy" / "slurm" / name
    check = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    text = script.read_text()

    assert check.returncode == 0, check.stderr
    assert "#SBATCH --requeue" in text
    assert "#SBATCH --signal=TERM@120" in text


def test_torchrun_and_the_engine_accept_the_options_of_the_recipes():
    job = yaml.safe_load_all((FOLDER / "several-machines" / "job.yaml").read_text())
    pod = next(item for item in job if item["kind"] == "Job")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    command = [*container["command"][1:], *container["args"]]
    script = (ROOT / "deploy" / "slurm" / "several_machines.sbatch").read_text()
    slurm = re.findall(r"(--[a-z0-9-]+)=", script.rpartition("torchrun \\\n")[2])

    parsed = get_args_parser().parse_args(command)
    assert (parsed.module, parsed.training_script, parsed.training_script_args[0]) == (True, "core", "run")
    assert pod["terminationGracePeriodSeconds"] > parsed.shutdown_timeout
    assert {"--nnodes", "--rdzv-endpoint", "--shutdown-timeout"} <= set(slurm)
    assert set(slurm) <= {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {option for option in container["args"] if option.startswith("--")} == {"--dataset", "--out"}
