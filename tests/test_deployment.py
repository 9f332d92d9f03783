"""compose.yaml and kubernetes.yaml against the images, the commands and the server. Nothing is started."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.plugins.core.core_plugin import CorePluginLoader

from lm.callbacks.files import SUMMARY
from lm.data.corpus.prepare import CorpusSettings
from lm.run.folder import RUNS
from lm.serving import command as serve
from lm.serving.guard import OPEN
from lm.serving.security import VARIABLE, read_keys
from lm.serving.server import Server

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
KUBERNETES = ROOT / "configs/deploy/kubernetes.yaml"
WORK = "/work"
FOLDERS = {f"{WORK}/{RUNS}": "runs", f"{WORK}/{CorpusSettings.data_dir}": "data"}
MODEL = f"{RUNS}/gpt-nano"
CLOSING = Server(None, None, 0).config.timeout_graceful_shutdown  # seconds in which connections close


def without_variables(value: Any) -> Any:
    """Compose's ${NAME:-DEFAULT} as its default."""
    if isinstance(value, dict):
        return {key: without_variables(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_variables(each) for each in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    return without_variables(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))["services"]


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents() if each["kind"] == kind)
    return found


def pod(kind: str) -> dict[str, Any]:
    return of_kind(kind)["spec"]["template"]["spec"]


def containers(kind: str) -> list[dict[str, Any]]:
    return [*pod(kind).get("initContainers", []), *pod(kind)["containers"]]


def served(words: list[str]) -> argparse.Namespace:
    """What `lm serve` makes of a command's words behind the image's entry point."""
    (entry,) = re.findall(r'^ENTRYPOINT (\["lm", "serve".*)$', DOCKERFILE, re.MULTILINE)
    return serve._parser().parse([*json.loads(entry)[2:], *words])


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("words", [["gpt-nano"], None], ids=["compose", "kubernetes"])
def test_what_trains_is_a_configuration(lm, words):
    if words:
        service = compose()["fit"]
        assert service["entrypoint"] == ["lm", "fit"]
        assert service["command"] == words
    else:
        assert containers("Job")[0]["args"][0] == "fit"
        words = containers("Job")[0]["args"][1:]
    result = lm("fit", *words, "--print_config")
    assert result.status == 0, result.err
    assert f"{RUNS}/{yaml.safe_load(result.out)['name']}" == MODEL  # what is served then


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_compose_serves_what_it_trained_and_has_time_to_stop(name):
    service = compose()["serve"]
    args = served({**service, **compose(name)["serve"]}["command"])
    assert args.models == [MODEL]
    assert f"127.0.0.1:{args.port}:{args.port}" in service["ports"]
    assert seconds(service["stop_grace_period"]) > args.grace + CLOSING
    assert service["depends_on"]["fit"]["condition"] == "service_completed_successfully"
    assert service["environment"] == [VARIABLE]  # handed on where it is set: an empty one has no key


def test_compose_shows_tensorboard():
    service = compose()["tensorboard"]
    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    assert service["entrypoint"] == ["tensorboard"]
    args = parser.parse_args(service["command"])
    assert args.logdir == str(RUNS)
    assert args.host == "0.0.0.0"
    assert service["ports"] == ["127.0.0.1:6006:6006"]


def test_compose_gives_little_away():
    names = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["volumes"]
    for name, service in compose().items():
        assert service["read_only"] is True
        assert service["init"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [each.partition(":")[0] for each in service["tmpfs"]] == ["/tmp"]
        assert all(each.startswith("127.0.0.1:") for each in service.get("ports", []))
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert FOLDERS[target] == source
            assert source in names
            assert mode == ([] if name == "fit" else ["ro"])


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_images_are_stages_and_have_tags(name):
    stages = re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE)
    arguments = re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
    assert compose(name).keys() == compose().keys()
    for service in compose(name).values():
        assert re.fullmatch(r"lm:(train|serve)(-cuda)?", service["image"])
        build = service.get("build", {})
        assert set(build.get("args", {})) <= set(arguments)
        if "target" in build:
            assert build["target"] in stages
            assert service["image"] == f"lm:{build['target']}"


def test_kubernetes_images_are_those_of_compose():
    images = {service["image"] for service in compose().values()}
    assert {each["image"] for kind in ("Job", "Deployment") for each in containers(kind)} == images


def test_kubernetes_serves_what_its_job_trained():
    (wait,), (server,) = pod("Deployment")["initContainers"], pod("Deployment")["containers"]
    args = served(server["args"])
    assert args.models == [MODEL]
    assert f"{MODEL}/{SUMMARY}" in wait["command"][-1]  # which is there at a run's end
    assert [port["containerPort"] for port in server["ports"]] == [args.port]
    (port,) = of_kind("Service")["spec"]["ports"]
    assert port["targetPort"] == server["ports"][0]["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/health", "port": port["targetPort"]}
    assert "/health" in OPEN  # without a key


def test_kubernetes_has_time_to_stop():
    (server,) = pod("Deployment")["containers"]
    command, before = server["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    needed = int(before) + served(server["args"]).grace + CLOSING
    assert pod("Deployment")["terminationGracePeriodSeconds"] > needed
    readiness, grace = server["readinessProbe"], pod("Deployment")["terminationGracePeriodSeconds"]
    assert readiness["periodSeconds"] <= grace


def test_kubernetes_refers_to_what_is_there():
    claims = {each["metadata"]["name"] for each in documents() if each["kind"] == "PersistentVolumeClaim"}
    for kind in ("Job", "Deployment"):
        volumes = {each["name"]: each for each in pod(kind)["volumes"]}
        used = {
            each["persistentVolumeClaim"]["claimName"]
            for each in volumes.values()
            if len(each) == 2 and "persistentVolumeClaim" in each
        }
        assert used <= claims
        for container in containers(kind):
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes
                assert FOLDERS.get(mount["mountPath"], mount["name"]) == mount["name"]
                assert mount.get("readOnly", False) == (kind == "Deployment" and mount["name"] != "tmp")
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        selector = of_kind(kind)["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels
        assert (
            not selector.get("matchLabels", selector).items() <= of_kind("Job")["metadata"]["labels"].items()
        )


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_kubernetes_gives_little_away(kind):
    (user,) = re.findall(r"^ARG USER_ID=(\d+)$", DOCKERFILE, re.MULTILINE)
    context = pod(kind)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(kind)["automountServiceAccountToken"] is False
    for container in containers(kind):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
    assert "/tmp" in {each["mountPath"] for each in pod(kind)["containers"][0]["volumeMounts"]}


def test_keys_are_a_secret_and_nowhere_written(tmp_path):
    (server,) = pod("Deployment")["containers"]
    keys = Path(served(server["args"]).keys)
    mounts = {each["mountPath"]: each["name"] for each in server["volumeMounts"]}
    volumes = {each["name"]: each for each in pod("Deployment")["volumes"]}
    secret = volumes[mounts[str(keys.parent)]]["secret"]["secretName"]
    command = f"kubectl create secret generic {secret} --from-literal={keys.name}="
    assert command in KUBERNETES.read_text(encoding="utf-8")
    assert "Secret" not in {each["kind"] for each in documents()}
    for container in (*containers("Job"), *containers("Deployment")):
        assert not [each for each in container.get("env", []) if "value" in each]
    (tmp_path / keys.name).write_text("0123456789abcdef0123")  # as a literal: no newline at its end
    assert read_keys(str(tmp_path / keys.name), None).accept("Bearer 0123456789abcdef0123")


def test_the_job_goes_on_with_the_same_run():
    """Pods that are replaced one after the other, and only where that can help."""
    spec = of_kind("Job")["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy demands
    (fail,) = (rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert fail["onExitCodes"]["containerName"] == containers("Job")[0]["name"]
    assert fail["onExitCodes"]["values"] == [2]  # UserError's for options


def test_it_ships_by_its_name(lm):
    assert lm("configs", "kubernetes").out == KUBERNETES.read_text(encoding="utf-8")
    result = lm("fit", "kubernetes")
    assert result.status
    assert "Traceback" not in result.err


def test_schema():
    """Of Kubernetes' oldest version that has all of this, and the newest: pip install
    kubernetes-validate (108 MB, so not among the requirements of tests)."""
    validator = pytest.importorskip("kubernetes_validate")
    for version in ("1.31", validator.latest_version()):
        for document in documents():
            validator.validate(document, version, strict=True)
