from collections.abc import Iterator

import pytest

from tests.ray_cluster import NoRay, RayCluster, joined, running_ray


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Ray, which this process's environment lets join. For tests that are marked as slow."""
    try:
        with running_ray(tmp_path_factory.mktemp("node")) as cluster, joined(cluster):
            yield cluster
    except NoRay as reason:
        pytest.skip(f"Ray does not start on this machine: {reason}")
