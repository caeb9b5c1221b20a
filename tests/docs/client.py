"""What stands in for a program in a guide: asks the test to run it, prints what it printed, ends as it ended.

Called by the stand-ins of `live.py` as `python client.py SOCKET WORD...`; needs nothing but Python's own library.
"""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(sys.argv[1])
    asked.sendall(json.dumps({"words": sys.argv[2:], "folder": os.getcwd(), "variables": dict(os.environ)}).encode())
    asked.shutdown(socket.SHUT_WR)
    with asked.makefile("rb") as answer:
        ended = json.loads(answer.read())
sys.stdout.write(ended["output"])
sys.exit(ended["status"])
