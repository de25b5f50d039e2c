"""One rank of some that meet four times; before the third time, one of them does what it is told."""

import os
import signal
import sys
import time

from arcface.system.startup import start_paddle

start_paddle()

import paddle

from arcface.distributed.process_group import all_reduce_sum, heartbeat, rank, ranks_together, world_size
from arcface.errors import UserError

lost_rank, what, timeout = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
paddle.set_device("cpu")
with ranks_together(timeout):
    all_reduce_sum(paddle.ones([2]))
    print("together", flush=True)
    all_reduce_sum(paddle.ones([2]))  # all of them have said so
    if rank() == lost_rank:
        match what:
            case "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "is stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raises":
                raise ZeroDivisionError("of this rank alone")
            case "finds a mistake":
                raise UserError("of this rank alone")
            case "ends":
                sys.exit(0)
            case "hangs":
                heartbeat("a long dream")
                time.sleep(1000)
            case "is slow":
                for _ in range(6):
                    time.sleep(timeout / 4)
                    heartbeat("slow work")
            case "is in a collective":  # of Paddle's own, of which the watchdog is not told
                paddle.distributed.barrier()
                os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "is in a collective":
        paddle.distributed.barrier()
        paddle.distributed.all_reduce(paddle.ones([2]))
    total = all_reduce_sum(paddle.ones([2]))
    all_reduce_sum(paddle.ones([2]))
    assert total.tolist() == [world_size()] * 2
    print("done", flush=True)
