"""Every class has one owner, and every rank its fair share."""

import pytest

from arcface.errors import UserError
from arcface.head.shards import shard_of


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("classes", [64, 65, 127, 275, 85742])
def test_shards_are_contiguous_cover_all_classes_and_differ_by_at_most_one(classes, world_size):
    shards = [shard_of(classes, rank, world_size) for rank in range(world_size)]
    assert [shard.start for shard in shards] == [0, *(shard.stop for shard in shards[:-1])]
    assert shards[-1].stop == classes
    sizes = {shard.size for shard in shards}
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_fewer_classes_than_ranks_are_refused():
    with pytest.raises(UserError, match="2 classes cannot be shared by 3 ranks"):
        shard_of(2, 0, 3)
