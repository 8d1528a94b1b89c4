# Calls `handle` for each execution that ends: python3 examples/completions.py [--once]
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

SERVER = os.environ.get("LASTWORD_SERVER", "http://127.0.0.1:7070")
TOKEN = os.environ.get("LASTWORD_TOKEN")
CURSOR = "completions.cursor"  # the last event that was handled


def handle(event):
    print(event["labels"].get("job"), event["status"], event["complete"], flush=True)


def load():
    try:
        with open(CURSOR) as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def save(cursor):
    with open(CURSOR + ".new", "w") as file:
        file.write(cursor)
        file.flush()
        os.fsync(file.fileno())
    os.replace(CURSOR + ".new", CURSOR)


def follow(once):
    """Returns when the server ends the stream: it goes down, or there is no more and `once` was asked for."""
    query = {"kind": "ended", "follow": "false" if once else "true"}
    if cursor := load():
        query["after"] = cursor
    request = urllib.request.Request(f"{SERVER}/v1/events?{urllib.parse.urlencode(query)}")
    request.add_header("Accept", "text/event-stream")
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    # The server says something every 15 seconds. A minute of silence is a connection that is gone.
    with urllib.request.urlopen(request, timeout=60) as answer:
        kind = cursor = None
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                cursor = value
            elif name == "event":
                kind = value
            elif name == "data" and kind == "ended":
                handle(json.loads(value))
            elif name == "data":
                raise OSError(value)  # an error of the server; what came before it is good
            elif not line.strip() and cursor:
                save(cursor)  # the event is whole, and was handled


def main():
    once = "--once" in sys.argv
    while True:
        try:
            follow(once)
        except urllib.error.HTTPError as error:
            code = json.load(error)["code"]
            if code == "cursor_gone":
                os.remove(CURSOR)  # from the beginning: `handle` may see again what it saw
            elif error.code < 429:
                raise SystemExit(f"{SERVER} says {code}")
        except (OSError, http.client.HTTPException) as error:
            print(f"{error}; trying again", file=sys.stderr)
        else:
            if once:
                return
        time.sleep(1)


main()
