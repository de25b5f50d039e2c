"""One rank that joins the others within some seconds, and adds with them: python joining_worker.py SECONDS [what it does]."""

import sys
import time

from arcface.system.startup import start_paddle

start_paddle()

import paddle
import paddle.distributed as dist

from arcface.command import run
from arcface.distributed.process_group import all_reduce_sum, ranks_together, world_size

seconds, what = float(sys.argv[1]), sys.argv[2:]


def fail(*_, **__):
    raise OSError("\n\n-----\nC++ Traceback\n-----\nExternalError: NCCL error(2), unhandled system error.\n  [Hint: none]\n")


def main():
    paddle.set_device("cpu")
    if what == ["hangs"]:
        dist.init_parallel_env = lambda: time.sleep(1000)
    if what == ["cannot connect"]:
        dist.init_parallel_env = fail
    with ranks_together(seconds):
        print("together", flush=True)
        if what == ["fails"]:
            dist.all_reduce = fail
        assert all_reduce_sum(paddle.ones([1])).item() == world_size()
    print("done", flush=True)


run(main)
