"""The Helm chart: rendered by Helm itself, held against the schemas of Kubernetes, and against what it refers to."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from server.config import PREFIX, Config
from server.db.database import open_database, reading
from server.db.jobs import Jobs
from server.launch import _GRACE_S
from tests.db.test_jobs import add
from tests.paths import ROOT

CHART = ROOT / "deploy" / "helm"
BUCKET = {"bucket": {"url": "s3://pictures/upscale"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "as documented": BUCKET,
    "everything": {
        "bucket": {"url": "s3://pictures", "endpoint": "https://store.example", "links": "direct", "secret": "keys"},
        "imagePullSecrets": [{"name": "registry"}],
        "apiKeys": {"secret": "api-keys"},
        "settings": {"UPSCALE_KEEP_S": 3600, "UPSCALE_LEASE_S": "30"},
        "weights": {"claim": "weights"},
        "serviceAccount": {"name": "upscale"},
        "api": {"nodeSelector": {"pool": "cpu"}},
        "worker": {"runtimeClassName": "nvidia", "nodeSelector": {"pool": "gpu"}, "keda": {"minReplicas": 0}},
        "networkPolicy": {
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "database": {"port": 6432, "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
        },
    },
    "without KEDA, GPUs and policies": BUCKET
    | {"worker": {"gpus": 0, "replicas": 3, "keda": {"enabled": False}}, "networkPolicy": {"enabled": False}},
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no bucket": ({}, "bucket.url is needed"),
    "a folder": ({"bucket": {"url": "/data"}}, "/bucket/url"),
    "an unknown value": (BUCKET | {"worker": {"gpu": 1}}, "gpu"),
    "too little time to end": (BUCKET | {"worker": {"graceSeconds": 10}}, "graceSeconds"),
}
RENDER = """
import json, sys
import helm_python
chart, variants = helm_python.Chart.load(sys.argv[1]), json.load(sys.stdin)
answers = {}
for name, values in variants.items():
    try:
        chart.validate_schema(values)
        answers[name] = list(chart.render(values, name="test", namespace="pictures").values())
    except helm_python.HelmError as error:
        answers[name] = str(error)
lint = helm_python.lint(sys.argv[1], next(iter(variants.values())), strict=True)
json.dump({"answers": answers, "lint": lint}, sys.stdout)
"""
"""In a process of its own: Helm's library brings Go's runtime, which handles signals by itself."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> dict[str, Any]:
    variants = VARIANTS | {name: values for name, (values, _) in WRONG.items()}
    command = [sys.executable, "-c", RENDER, str(CHART)]
    run = subprocess.run(command, input=json.dumps(variants), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def manifests(helm: dict[str, Any], variant: str) -> dict[tuple[str, str], Manifest]:
    """By kind and the end of the name."""
    assert isinstance(helm["answers"][variant], list), helm["answers"][variant]
    found = [each for part in helm["answers"][variant] for each in yaml.safe_load_all(part) if each]
    return {(each["kind"], each["metadata"]["name"].rpartition("-")[2]): each for each in found}


def pod_of(manifest: Manifest) -> tuple[Manifest, Manifest]:
    """The pod, and its one container."""
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def variables(container: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_helm_finds_nothing_wrong(helm: dict[str, Any]) -> None:
    assert helm["lint"]["errors"] == []
    assert all(each["severity"] == 1 for each in helm["lint"]["messages"]), helm["lint"]["messages"]


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_rendered_is_valid(helm: dict[str, Any], variant: str, version: str) -> None:
    import kubernetes_validate  # here, because its formats take a second, and all processes import this module

    found = manifests(helm, variant)
    for (kind, _), manifest in found.items():
        if not manifest["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(manifest, version, strict=True)
            assert kind in ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy")


def test_the_schemas_would_notice_a_wrong_field(helm: dict[str, Any]) -> None:
    import kubernetes_validate

    manifest = manifests(helm, "as documented")["Deployment", "worker"]
    manifest["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="resource"):
        kubernetes_validate.validate(manifest, "1.37.0", strict=True)


@pytest.mark.parametrize("variant", WRONG)
def test_wrong_values_are_refused_by_name(helm: dict[str, Any], variant: str) -> None:
    assert WRONG[variant][1] in str(helm["answers"][variant])


def test_each_half_runs_its_role_and_the_worker_has_a_gpu(helm: dict[str, Any]) -> None:
    found = manifests(helm, "as documented")
    _, api = pod_of(found["Deployment", "api"])
    pod, worker = pod_of(found["Deployment", "worker"])
    assert api["args"][:3] == ["serve", "--role", "api"] and worker["args"] == ["serve", "--role", "worker"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1 and "nvidia.com/gpu" not in api["resources"]["limits"]
    assert pod["terminationGracePeriodSeconds"] > _GRACE_S + 5
    _, without = pod_of(manifests(helm, "without KEDA, GPUs and policies")["Deployment", "worker"])
    assert "nvidia.com/gpu" not in without["resources"]["limits"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_secrets_are_named_and_never_written(helm: dict[str, Any], variant: str) -> None:
    found = manifests(helm, variant)
    for name in ("api", "worker"):
        _, container = pod_of(found["Deployment", name])
        given = variables(container)
        assert set(given["UPSCALE_DATABASE_URL"]) == {"secretKeyRef"}
        assert given["UPSCALE_BLOB_URL"].startswith("s3://pictures")
        assert [set(each) for each in container["envFrom"]] == [{"secretRef"}]
        assert set(given.get("UPSCALE_API_KEYS", {"secretKeyRef": 0})) == {"secretKeyRef"}
        known = {PREFIX + field.upper() for field in Config.model_fields}
        assert given.keys() <= known | {"UPSCALE_BLOB_ENDPOINT", "UPSCALE_BLOB_LINKS"}
    assert "UPSCALE_API_KEYS" not in variables(pod_of(found["Deployment", "worker"])[1]), "a worker needs none"
    assert not any(kind == "Secret" for kind, _ in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_write_only_to_their_own_volumes_and_are_not_root(helm: dict[str, Any], variant: str) -> None:
    for name in ("api", "worker"):
        pod, container = pod_of(manifests(helm, variant)["Deployment", name])
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {each["name"] for each in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}
        user = pod["securityContext"]["runAsUser"]
        assert f"USER {user}:{user}" in (ROOT / "Dockerfile.cuda").read_text("utf-8")


def test_policies_and_services_select_the_pods_of_their_half(helm: dict[str, Any]) -> None:
    for variant in VARIANTS:
        found = manifests(helm, variant)
        for name in ("api", "worker"):
            labels = found["Deployment", name]["spec"]["template"]["metadata"]["labels"]
            selectors = [found["Deployment", name]["spec"]["selector"]["matchLabels"]]
            if policy := found.get(("NetworkPolicy", name)):
                selectors.append(policy["spec"]["podSelector"]["matchLabels"])
            if name == "api":
                selectors.append(found["Service", "server"]["spec"]["selector"])
            for selector in selectors:
                assert selector.items() <= labels.items() and selector["app.kubernetes.io/component"] == name


def test_a_worker_takes_no_connection_and_the_api_reaches_no_private_address_by_a_callers_url(
    helm: dict[str, Any],
) -> None:
    found = manifests(helm, "as documented")
    assert "ingress" not in found["NetworkPolicy", "worker"]["spec"]
    anywhere = found["NetworkPolicy", "api"]["spec"]["egress"][-1]["to"][0]["ipBlock"]
    assert "169.254.0.0/16" in anywhere["except"] and "10.0.0.0/8" in anywhere["except"]


def test_keda_scales_the_workers_deployment_by_the_databases_secret(helm: dict[str, Any]) -> None:
    found = manifests(helm, "as documented")
    scaler = found["ScaledObject", "worker"]["spec"]
    (trigger,) = scaler["triggers"]
    assert scaler["scaleTargetRef"]["name"] == found["Deployment", "worker"]["metadata"]["name"]
    assert trigger["authenticationRef"]["name"] == found["TriggerAuthentication", "worker"]["metadata"]["name"]
    (secret,) = found["TriggerAuthentication", "worker"]["spec"]["secretTargetRef"]
    _, worker = pod_of(found["Deployment", "worker"])
    reference = variables(worker)["UPSCALE_DATABASE_URL"]["secretKeyRef"]
    assert secret == {"parameter": "connection", "name": reference["name"], "key": reference["key"]}
    assert trigger["type"] == "postgresql" and isinstance(trigger["metadata"]["targetQueryValue"], str)
    assert "replicas" not in found["Deployment", "worker"]["spec"], "KEDA sets it"
    assert ("ScaledObject", "worker") not in manifests(helm, "without KEDA, GPUs and policies")


@pytest.mark.slow
def test_kedas_query_counts_the_unended_jobs_of_a_real_postgresql(helm: dict[str, Any], postgres: str) -> None:
    (trigger,) = manifests(helm, "as documented")["ScaledObject", "worker"]["spec"]["triggers"]
    engine = open_database(postgres)
    jobs = Jobs(engine, lease_s=15)

    def answer() -> Any:
        with reading(engine) as db:
            (row,) = db.execute(text(trigger["metadata"]["query"])).all()
            return row[0]

    with engine.begin() as db:
        db.execute(text("DELETE FROM jobs"))
    assert answer() == 0
    for _ in range(3):
        add(jobs)
    assert answer() == 3
    running = jobs.claim("worker")
    assert running is not None and answer() == 3, "a job that runs still needs its worker"
    assert jobs.cancelled(running) and answer() == 2
    engine.dispose()
