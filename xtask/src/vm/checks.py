"""What `cargo xtask vm` checks inside the machine. Prints one line for each check: `vm: PASS name` or `vm: FAIL name: why`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LASTWORD = "/vm/lastword"
CGROUPS = "/sys/fs/cgroup"
UID = 1000
USER = "tester"
HINT = "systemd-run --user --scope -p Delegate=yes"
FAST_FAIL = 'print("Before error"); 1/0'
# Both pipes, unbuffered, in turn.
ALTERNATE = """
import os
for i in range(500):
    os.write(1, b"out %d\\n" % i)
    os.write(2, b"err %d\\n" % i)
"""
EAT_MEMORY = """
print("before", flush=True)
blocks = []
while True:
    blocks.append(bytearray(1 << 20))
"""
FORK_ON = """
import os, time
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made)
"""
SPIN = "print('before', flush=True)\nwhile True: pass"
# No check runs longer on its own; the software emulation of a processor is slow.
SECONDS_AT_MOST = 100
# After so many that had no end the others would only use up the time of the whole boot.
ENDLESS_AT_MOST = 2

checks = {"bare": [], "systemd": []}


def check(*phases):
    def keep(function):
        for phase in phases:
            checks[phase].append(function)
        return function

    return keep


class Wrong(Exception):
    pass


def demand(condition, what):
    if not condition:
        raise Wrong(str(what))


def run_raw(arguments, prefix=(), **more):
    """lastword, with `prefix` in front of it (who runs it, and where)."""
    return subprocess.run(
        [*prefix, LASTWORD, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=SECONDS_AT_MOST,
        **more,
    )


def run(code, *options, prefix=(), **more):
    """The execution object of a Python program."""
    ended = run_raw(["run", "--json", "--runtime", "python", *options, "-c", code], prefix, **more)
    demand(ended.returncode == 0, f"exit {ended.returncode}: {text(ended.stderr)}")
    return json.loads(ended.stdout)


def text(data):
    return data.decode("utf-8", "replace").strip()


def end(object, wanted):
    got = f"{object['status']}/{object['reason']}"
    demand(got == wanted, f"{got} instead of {wanted}: {json.dumps(object)}")
    demand(object["transcript"]["complete"], f"not complete: {object['transcript']['why_incomplete']}")


def enforced(object, *names):
    for name in names:
        demand(object["enforced"].get(name) is True, f"{name} isn't enforced: {object['enforced']}")


def as_user(*before):
    """As an ordinary user. `before` runs as root in the same process, as a login would: shell words."""
    become = f"exec setpriv --reuid={UID} --regid={UID} --clear-groups -- "
    environment = f"env -i PATH=/usr/bin:/bin HOME=/tmp/home LASTWORD_DATA_DIR=/tmp/home/data "
    return ["sh", "-c", "; ".join([*before, become + environment + '"$@"']), "sh"]


def groups_left():
    """Control groups of executions that are still there, and of probing whether one can be made."""
    ours = re.compile(r"/lastword-([0-9a-f]{32}|probe-\d+)$")
    return [path for path, _, _ in os.walk(CGROUPS) if ours.search(path)]


def processes():
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
            with open(f"/proc/{name}/stat") as file:
                rest = file.read().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        # Kernel threads have no command line, and neither have the dead: what is in state Z counts.
        if command or rest[0] == "Z" and rest[1] != "2":
            found[int(name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def ours():
    """Processes of lastword and of what ran in it: a supervisor executes a file in memory by its descriptor."""
    signs = (LASTWORD, "/proc/self/fd/", "/work/")
    return {pid: line for pid, line in processes().items() if line == "" or any(sign in line for sign in signs)}


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def delegated(name):
    """A control group that belongs to the user, and the words that put a shell into it."""
    path = f"{CGROUPS}/{name}"
    with open(f"{CGROUPS}/cgroup.subtree_control", "w") as file:
        file.write("+memory +pids +cpu")
    os.mkdir(path)
    for file in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
        os.chown(path + file, UID, UID)
    return path, f"echo $$ >{path}/cgroup.procs"


def remove_delegated(path):
    for leaf in sorted(os.listdir(path)):
        if os.path.isdir(f"{path}/{leaf}"):
            os.rmdir(f"{path}/{leaf}")
    os.rmdir(path)


# Checks, in the order in which they run.


@check("bare", "systemd")
def several_at_once_on_a_fresh_machine():
    with ThreadPoolExecutor(4) as pool:
        objects = list(pool.map(lambda _: run(FAST_FAIL, "--strict"), range(4)))
    for object in objects:
        end(object, "failed/exit")
        enforced(object, "memory", "pids")


@check("bare", "systemd")
def root_gets_the_whole_transcript_and_the_limits():
    object = run(FAST_FAIL)
    end(object, "failed/exit")
    demand(object["exit_code"] == 1, object["exit_code"])
    demand(object["stdout"] == "Before error\n", object["stdout"])
    demand(object["stderr"].endswith("ZeroDivisionError: division by zero\n"), object["stderr"])
    demand(object["output"] == object["stdout"] + object["stderr"], object["output"])
    demand(object["transcript"]["ordering"] == "exact", object["transcript"])
    enforced(object, "memory", "pids")
    usage = object["usage"]
    demand(usage["memory_peak_bytes"], f"no memory peak: {usage}")
    demand(usage["processes_peak"], f"no peak of processes: {usage}")
    return f"usage {json.dumps(usage)}"


@check("bare", "systemd")
def peaks_are_the_kernels_where_it_keeps_them():
    base = f"{CGROUPS}/lastword"
    kept = {name: os.path.exists(f"{base}/{name}") for name in ("memory.peak", "pids.peak")}
    usage = run(FAST_FAIL)["usage"]
    demand(bool(usage.get("processes_sampled")) != kept["pids.peak"], f"{kept}, {usage}")
    demand((usage["memory_peak_bytes"] is not None) == kept["memory.peak"], f"{kept}, {usage}")
    return json.dumps(kept)


@check("bare", "systemd")
def a_thousand_lines_stay_in_order():
    object = run(ALTERNATE)
    end(object, "succeeded/exit")
    demand(object["transcript"]["ordering"] == "exact", object["transcript"])
    wanted = "".join(f"out {i}\nerr {i}\n" for i in range(500))
    demand(object["output"] == wanted, "another order")
    demand(object["transcript"]["records"] == 1000, object["transcript"])


@check("bare", "systemd")
def a_memory_bomb_is_out_of_memory():
    object = run(EAT_MEMORY, "--memory", "64MiB")
    end(object, "failed/out_of_memory")
    demand(object["stdout"] == "before\n", object["stdout"])
    enforced(object, "memory")
    peak = object["usage"]["memory_peak_bytes"]
    demand(peak is None or 48 << 20 <= peak <= 64 << 20, f"peak {peak}")
    return f"peak {peak}"


@check("bare", "systemd")
def a_fork_bomb_is_bounded():
    object = run(FORK_ON, "--pids", "20")
    end(object, "succeeded/exit")
    enforced(object, "pids")
    made = int(object["stdout"])
    demand(10 <= made <= 20, f"{made} children")
    peak = object["usage"]["processes_peak"]
    demand(peak and made < peak <= 22, f"peak {peak}, {made} children")
    return f"{made} children, peak {peak}"


@check("bare", "systemd")
def half_a_processor_is_half_a_processor():
    object = run(SPIN, "--cpus", "0.5", "--timeout", "4s")
    end(object, "timed_out/wall_time")
    enforced(object, "cpus")
    usage = object["usage"]
    share = (usage["cpu_user_ms"] + usage["cpu_system_ms"]) / usage["wall_ms"]
    demand(0.2 < share < 0.65, f"{share:.2f} of a processor: {usage}")
    return f"{share:.2f}"


@check("bare", "systemd")
def cpu_time_runs_out():
    object = run(SPIN, "--cpu-time", "1s", "--timeout", "90s")
    end(object, "timed_out/cpu_time")
    enforced(object, "cpu")
    usage = object["usage"]
    used = usage["cpu_user_ms"] + usage["cpu_system_ms"]
    demand(950 <= used < 2500, f"{used} ms")
    return f"{used:.0f} ms"


@check("bare", "systemd")
def wall_time_runs_out():
    object = run("import time\nprint('before', flush=True)\ntime.sleep(1000)", "--timeout", "3s")
    end(object, "timed_out/wall_time")
    demand(object["stdout"] == "before\n", object["stdout"])


def files_in_and_out(prefix=()):
    """A copied file, a shared directory, and outputs of which one is a link."""
    code = """
import os
print(open("/work/in.txt").read(), os.listdir("/shared"))
os.makedirs("out/deep")
open("out/deep/a.bin", "wb").write(bytes(range(256)) * 4096)
os.symlink("/etc/passwd", "out/link")
try:
    open("/shared/new", "w")
except OSError as error:
    print(error.strerror)
"""
    options = ["--file", "/tmp/home/in.txt", "--ro", "/tmp/home/shared:/shared", "--out", "out:/tmp/home/results"]
    object = run(code, *options, prefix=prefix)
    end(object, "succeeded/exit")
    demand(object["stdout"] == "given ['x']\nRead-only file system\n", object["stdout"])
    demand([file["path"] for file in object["outputs"]] == ["out/deep/a.bin"], object["outputs"])
    demand([file["path"] for file in object["outputs_refused"]] == ["out/link"], object["outputs_refused"])
    with open("/tmp/home/results/out/deep/a.bin", "rb") as file:
        demand(file.read() == bytes(range(256)) * 4096, "another file came out")
    verified = run_raw(["verify", object["id"]], prefix)
    demand(verified.returncode == 0, text(verified.stdout))


def give_files():
    os.makedirs("/tmp/home/shared", exist_ok=True)
    for name, content in (("in.txt", "given"), ("shared/x", "")):
        with open(f"/tmp/home/{name}", "w") as file:
            file.write(content)
    for path in ("/tmp/home", "/tmp/home/shared"):
        os.chown(path, UID, UID)


@check("bare")
def files_go_in_and_come_out():
    give_files()
    files_in_and_out()
    # What root has made would be in the user's way.
    subprocess.run(["rm", "-rf", "/tmp/home/results"], check=True)


@check("bare")
def files_of_an_ordinary_user_go_in_and_come_out():
    give_files()
    files_in_and_out(as_user())


@check("bare", "systemd")
def a_killed_supervisor_leaves_no_group_behind():
    data = "/tmp/killed"
    command = [LASTWORD, "--data-dir", data, "run", "--runtime", "python", "-c", "import time\nprint(1, flush=True)\ntime.sleep(1000)"]
    front = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        demand(front.stdout.readline() == b"1\n", "the program said nothing")
        groups = groups_left()
        demand(len(groups) == 1, f"groups while it ran: {groups}")
        with open(f"/proc/{front.pid}/task/{front.pid}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        demand(len(children) == 1, f"children: {children}")
        # The front first: the supervisor, and then its group, are left for whoever opens the store next.
        front.send_signal(signal.SIGKILL)
        os.kill(children[0], signal.SIGKILL)
        front.wait()
    finally:
        front.kill()
        front.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{children[0]}"))
    listed = json.loads(run_raw(["--data-dir", data, "list", "--json"]).stdout)
    item = (listed["items"] if isinstance(listed, dict) else listed)[0]
    demand((item["status"], item["reason"]) == ("error", "lost"), item)


@check("bare")
def an_ordinary_user_runs_without_a_limit_on_memory():
    object = run(FAST_FAIL, prefix=as_user())
    end(object, "failed/exit")
    demand(object["output"].startswith("Before error\nTraceback "), object["output"])
    demand(object["transcript"]["ordering"] == "exact", object["transcript"])
    demand(object["enforced"]["memory"] is False, object["enforced"])
    return json.dumps(object["enforced"])


@check("bare")
def an_ordinary_users_fork_bomb_is_bounded_without_a_group():
    object = run(FORK_ON, "--pids", "20", prefix=as_user())
    end(object, "succeeded/exit")
    enforced(object, "pids")
    demand(10 <= int(object["stdout"]) <= 20, f"{object['stdout']} children")


@check("bare")
def strict_names_the_command_that_would_help():
    ended = run_raw(["run", "--strict", "--runtime", "python", "-c", "print('ran')"], as_user())
    demand(ended.returncode == 125, f"exit {ended.returncode}: {text(ended.stderr)}")
    demand(not ended.stdout, ended.stdout)
    demand(HINT in text(ended.stderr), text(ended.stderr))
    return text(ended.stderr)


@check("bare")
def a_delegated_group_enforces_for_an_ordinary_user():
    path, enter = delegated("delegated-run")
    object = run(FAST_FAIL, "--strict", "--cpus", "1", "--cpu-time", "60s", prefix=as_user(enter))
    end(object, "failed/exit")
    enforced(object, "memory", "pids", "cpus", "cpu")
    demand(object["usage"]["memory_peak_bytes"] or not os.path.exists(f"{path}/memory.peak"), object["usage"])
    demand(not groups_left(), groups_left())
    remove_delegated(path)


@check("bare")
def a_delegated_group_ends_a_memory_bomb():
    path, enter = delegated("delegated-bomb")
    object = run(EAT_MEMORY, "--memory", "64MiB", prefix=as_user(enter))
    end(object, "failed/out_of_memory")
    demand(object["stdout"] == "before\n", object["stdout"])
    remove_delegated(path)


@check("bare")
def a_delegated_group_serves_again_and_again():
    """From where lastword put itself: the next one must find the same place, also beside another."""
    path, enter = delegated("delegated-again")
    run(FAST_FAIL, prefix=as_user(enter))
    enter = f"echo $$ >{path}/lastword.self/cgroup.procs"
    with ThreadPoolExecutor(3) as pool:
        for object in pool.map(lambda _: run(FAST_FAIL, "--strict", prefix=as_user(enter)), range(3)):
            end(object, "failed/exit")
            enforced(object, "memory", "pids")
    remove_delegated(path)


def refused_with(prefix, *help):
    ended = run_raw(["run", "--runtime", "python", "-c", "print('ran')"], prefix)
    message = text(ended.stderr)
    demand(ended.returncode == 125, f"exit {ended.returncode}: {message}")
    demand(not ended.stdout, ended.stdout)
    for words in help:
        demand(words in message, message)
    return message


def with_sysctl(name, value, function):
    path = "/proc/sys/" + name.replace(".", "/")
    with open(path) as file:
        before = file.read()
    with open(path, "w") as file:
        file.write(value)
    try:
        return function()
    finally:
        with open(path, "w") as file:
            file.write(before)


@check("bare")
def no_user_namespaces_at_all_says_what_helps():
    name = "user.max_user_namespaces"
    return with_sysctl(name, "0", lambda: refused_with(as_user(), "sudo sysctl -w " + name))


@check("bare")
def no_user_namespaces_for_users_says_what_helps():
    name = "kernel.unprivileged_userns_clone"
    if not os.path.exists("/proc/sys/kernel/unprivileged_userns_clone"):
        return "this kernel has no such switch"
    return with_sysctl(name, "0", lambda: refused_with(as_user(), f"sudo sysctl -w {name}=1"))


@check("bare")
def after_a_refusal_it_works_again():
    end(run(FAST_FAIL, prefix=as_user()), "failed/exit")


# Under systemd: a session as a login makes it.


def in_session():
    session = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-p", f"User={USER}", "-p", "PAMName=login"]
    return [*session, "-E", "LASTWORD_DATA_DIR=/tmp/home/data"]


def in_scope():
    return [*in_session(), *HINT.split(), "--quiet"]


@check("systemd")
def in_a_session_nothing_is_delegated_and_strict_says_what_helps():
    object = run(FAST_FAIL, prefix=in_session())
    end(object, "failed/exit")
    demand(object["enforced"]["memory"] is False, object["enforced"])
    ended = run_raw(["run", "--strict", "--runtime", "python", "-c", "print('ran')"], in_session())
    demand(ended.returncode == 125 and not ended.stdout, f"exit {ended.returncode}: {text(ended.stderr)}")
    demand(HINT in text(ended.stderr), text(ended.stderr))


@check("systemd")
def what_strict_advises_works():
    object = run(FAST_FAIL, "--strict", prefix=in_scope())
    end(object, "failed/exit")
    enforced(object, "memory", "pids")


@check("systemd")
def in_a_scope_a_memory_bomb_is_out_of_memory():
    object = run(EAT_MEMORY, "--strict", "--memory", "64MiB", prefix=in_scope())
    end(object, "failed/out_of_memory")
    demand(object["stdout"] == "before\n", object["stdout"])


@check("systemd")
def in_a_scope_a_fork_bomb_is_bounded():
    object = run(FORK_ON, "--pids", "20", prefix=in_scope())
    end(object, "succeeded/exit")
    demand(10 <= int(object["stdout"]) <= 20, object["stdout"])


@check("systemd")
def in_a_scope_processors_are_limited_or_the_refusal_is_right():
    object = run(SPIN, "--cpus", "0.5", "--timeout", "4s", prefix=in_scope())
    usage = object["usage"]
    share = (usage["cpu_user_ms"] + usage["cpu_system_ms"]) / usage["wall_ms"]
    if object["enforced"]["cpus"]:
        demand(share < 0.65, f"{share:.2f} of a processor")
    return f"cpus enforced: {object['enforced']['cpus']}, {share:.2f} of a processor"


@check("systemd")
def a_scope_in_the_system_serves_root():
    object = run(FAST_FAIL, "--strict", prefix=["systemd-run", "--quiet", "--scope", "-p", "Delegate=yes"])
    end(object, "failed/exit")
    enforced(object, "memory", "pids")


@check("systemd")
def a_service_that_is_not_delegated_serves_root():
    session = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-E", "LASTWORD_DATA_DIR=/tmp/data"]
    object = run(FAST_FAIL, "--strict", prefix=session)
    end(object, "failed/exit")


UNIT = f"""[Service]
KillMode=process
KillSignal=SIGKILL
Delegate=yes
ProtectHome=yes
ProtectSystem=full
Environment=LASTWORD_DATA_DIR=/tmp/data
ExecStart={LASTWORD} run --strict --memory 64MiB -- /usr/bin/sleep 10
"""


@check("systemd")
def a_service_starts_again_while_the_runs_of_the_last_one_go_on():
    name = "lastword-again.service"
    with open(f"/run/systemd/system/{name}", "w") as file:
        file.write(UNIT)
    systemctl = lambda *words: subprocess.run(["systemctl", *words], timeout=SECONDS_AT_MOST)
    systemctl("daemon-reload")
    systemctl("start", name)
    demand(wait_until(lambda: groups_left()), "the first run has no group")
    first = groups_left()
    systemctl("restart", name)
    demand(wait_until(lambda: len(groups_left()) == 2), f"the second run has no group: {groups_left()}")
    demand(set(first) < set(groups_left()), f"the first run is gone: {first}, {groups_left()}")
    systemctl("stop", name)
    demand(wait_until(lambda: not ours(), SECONDS_AT_MOST), f"they don't end: {ours()}")


@check("systemd")
def systemd_takes_no_controller_away():
    """It writes the controllers of the top anew whenever its units change."""
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=SECONDS_AT_MOST)
    object = run(FAST_FAIL, "--strict")
    enforced(object, "memory", "pids")


endless = 0


def where():
    """Where each process of ours waits in the kernel."""
    lines = []
    for pid, line in ours().items():
        with open(f"/proc/{pid}/wchan") as file:
            lines.append(f"{line.strip() or pid} in {file.read()}")
    return "; ".join(lines)


def report(name, function):
    started = time.monotonic()
    try:
        said = function()
        demand(wait_until(lambda: not groups_left()), f"groups left: {groups_left()}")
        demand(wait_until(lambda: not ours()), f"processes left: {ours()}")
        line = f"PASS {name}" + (f" ({said})" if said else "")
    except subprocess.TimeoutExpired as error:
        global endless
        endless += 1
        line = f"FAIL {name}: no end after {error.timeout} s: {text(error.stderr or b'')} {where()}"
        for pid in ours():
            os.kill(pid, signal.SIGKILL)
    except Exception as error:  # one check must not keep the others from running
        line = f"FAIL {name}: {type(error).__name__}: {error}"
    line = re.sub(r"\s+", " ", line)
    print(f"vm: {line} [{time.monotonic() - started:.1f} s]", flush=True)


def machine():
    with open(f"{CGROUPS}/cgroup.controllers") as file:
        controllers = file.read().strip()
    with open("/proc/self/cgroup") as file:
        own = file.read().strip()
    print(f"vm: INFO Linux {os.uname().release}, cgroup v2 with {controllers}; checks run in {own}", flush=True)


@check("bare", "systemd")
def doctor_ends():
    ended = run_raw(["doctor"])
    for line in text(ended.stdout).splitlines():
        print(f"vm: INFO doctor: {line}", flush=True)
    demand(ended.returncode == 0, f"exit {ended.returncode}: {text(ended.stderr)}")


def main():
    phase = sys.argv[1]
    os.environ["LASTWORD_DATA_DIR"] = "/tmp/data"
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    if phase == "systemd":
        # The disk has no room to spare.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"], check=True)
    os.makedirs("/tmp/home", exist_ok=True)
    os.chown("/tmp/home", UID, UID)
    machine()
    for function in checks[phase]:
        if endless >= ENDLESS_AT_MOST:
            print(f"vm: FAIL {phase}: gave up before {function.__name__}", flush=True)
            break
        report(f"{phase}: {function.__name__.replace('_', ' ')}", function)
    print(f"vm: END {phase}", flush=True)


main()
