"""Run the blocks of Python that a page has, as users do: without this package. `client.py BLOCKS.json` prints what they compute.

Each block is a whole program; of what it leaves, `embeddings` is printed, in a line of JSON each.
"""

import json
import sys

sys.modules["arcface"] = None  # importing it is an error

for block in json.load(open(sys.argv[1])):
    left = {"__name__": "__main__"}
    exec(block, left)
    print(json.dumps(left["embeddings"].tolist()), flush=True)
