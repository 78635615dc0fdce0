#!/usr/bin/python3 -I
"""pybridge is a network plugin for Kelson, written from docs/plugin-wire.md alone.

It connects the pods of a single node to a Linux bridge by executing the standard
CNI plugins bridge, host-local and portmap, and needs Python 3.9 with grpcio and
protobuf. The messages come from contract.binpb, a compiled form of the .proto
files, so that there is no generated code.
"""
import contextlib
import glob
import hashlib
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from concurrent import futures

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # it only execs, and must not stop gRPC for that
try:
    import grpc
    from google.protobuf import descriptor_pb2, message_factory
except ImportError as missing:
    sys.exit(f"pybridge: {missing}; on Debian: apt-get install -y python3-grpcio python3-protobuf")

KIND, NAME, VERSION = "cni", "pybridge", "1.0.0"
SUMMARY = "Connects the pods of one node to a bridge; a sample in Python."
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "bridge": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,14}$", "default": "kelson-py",
                   "description": "Name of the bridge."},
        "mtu": {"type": "integer", "minimum": 0, "maximum": 65535, "default": 0,
                "description": "MTU of the pods' interfaces; 0 takes the node's."},
    },
}
CNI_VERSIONS = ["1.0.0", "1.1.0"]
VERBS = {1: "ADD", 2: "DEL", 3: "CHECK", 4: "STATUS", 5: "GC", 6: "VERSION"}
MAX_FRAME, MAX_MESSAGE, MAX_ATTACHING = 1 << 20, 16 << 20, 16
CONTRACT = descriptor_pb2.FileDescriptorSet()
MESSAGES = {}


def load_contract():
    with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "contract.binpb"), "rb") as f:
        CONTRACT.ParseFromString(f.read())
    MESSAGES.update(message_factory.GetMessages(CONTRACT.file))


def message(name, /, **fields):
    return MESSAGES["kelson." + name](**fields)


def log(level, text, **fields):
    """One line of JSON per message; the host knows these keys."""
    line = {"@level": level, "@message": text, **fields}
    with contextlib.suppress(OSError):  # a log that is gone ends nothing
        os.write(2, (json.dumps(line) + "\n").encode())


class Refused(Exception):
    """An error for the host: a gRPC code, and a word that programs compare."""

    def __init__(self, code, reason, text):
        super().__init__(text)
        self.code, self.reason = code, reason


class CNIError(Exception):
    """An error for the container runtime."""

    def __init__(self, code, text, details=""):
        super().__init__(text)
        self.code, self.details = code, details


# ---- configuration

def diagnose(raw):
    """Returns the configuration with its defaults, and [(path, summary, hint)]."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)
    try:
        config = json.loads(raw or b"{}", object_pairs_hook=unique)
    except (ValueError, RecursionError) as e:
        return None, [("", f"not JSON: {e}", "")]
    if not isinstance(config, dict):
        return None, [("", "not an object", "write {…}")]
    properties, found = SCHEMA["properties"], []
    for key, value in config.items():
        rule = properties.get(key)
        if rule is None:
            found.append((key, "unknown setting", "known are " + ", ".join(sorted(properties))))
        elif rule["type"] == "string":
            if not isinstance(value, str) or not re.search(rule["pattern"] + r"\Z", value):
                found.append((key, "want a text like " + rule["default"], "the pattern is " + rule["pattern"]))
        elif isinstance(value, bool) or not isinstance(value, int) or not rule["minimum"] <= value <= rule["maximum"]:
            found.append((key, f"want a number from {rule['minimum']} to {rule['maximum']}", ""))
    return {**{k: r["default"] for k, r in properties.items()}, **config}, found


# ---- the two services

class Base:
    """Serves kelson.plugin.v1.Plugin."""

    def __init__(self, network):
        self.network, self.config, self.drained = network, None, False
        self.changed = threading.Condition()
        self.state = "UNREADY", "NotStarted", "waiting for the host to start the network"

    def report(self, state, reason="", text=""):
        with self.changed:
            self.state = (state, reason, text)
            self.changed.notify_all()

    def Describe(self, request, context):
        return message("plugin.v1.DescribeResponse", kind=KIND, name=NAME, version=VERSION, protocols=[1],
                       config_schema=json.dumps(SCHEMA).encode(), summary=SUMMARY)

    def Validate(self, request, context):
        _, found = diagnose(request.config)
        return message("plugin.v1.ValidateResponse", diagnostics=[
            message("plugin.v1.Diagnostic", path=p, severity="SEVERITY_ERROR", summary=s, hint=h) for p, s, h in found])

    def Configure(self, request, context):
        config, found = diagnose(request.config)
        if found:
            text = "; ".join(f"{p}: {s}" if p else s for p, s, _ in found)
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "CONFIG_INVALID", text)
        with self.network.control:
            self.need(not self.drained, "DRAINED", "the plugin takes no more work")
            if self.config is None:
                self.config = config
            # Pods hang on what there is: another bridge takes a new process.
            return message("plugin.v1.ConfigureResponse", restart_required=config != self.config)

    def need(self, condition, reason, text):
        if not condition:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, reason, text)

    def Health(self, request, context):
        def wake():
            with self.changed:
                self.changed.notify_all()
        context.add_callback(wake)
        while context.is_active():
            state, reason, text = sent = self.state
            yield message("plugin.v1.HealthResponse", state="STATE_" + state, reason=reason, message=text)
            with self.changed:
                self.changed.wait_for(lambda: self.state != sent or not context.is_active(), timeout=5)

    def Metrics(self, request, context):
        lines = ["# TYPE pybridge_operations_total counter"]
        for (verb, result), n in sorted(self.network.done.items()):
            lines.append(f'pybridge_operations_total{{verb="{verb}",result="{result}"}} {n}')
        return message("plugin.v1.MetricsResponse", text=("\n".join(lines) + "\n").encode())

    def Drain(self, request, context):
        self.finish(context.time_remaining())
        return message("plugin.v1.DrainResponse")

    def finish(self, timeout):
        with self.network.control:
            self.drained = True
            self.network.stop_serving()
            with self.network.turns.alone(timeout):
                self.report("UNREADY", "Drained", "the plugin takes no more work")


class Turns:
    """Lets operations on different containers run side by side, or one thing alone."""

    def __init__(self):
        self.changed, self.busy, self.closed = threading.Condition(), set(), False

    @contextlib.contextmanager
    def one(self, container, timeout):
        with self.changed:
            free = lambda: not self.closed and container not in self.busy and len(self.busy) < MAX_ATTACHING
            if not self.changed.wait_for(free, timeout):
                raise CNIError(11, "too much is under way")
            self.busy.add(container)
        try:
            yield
        finally:
            with self.changed:
                self.busy.remove(container)
                self.changed.notify_all()

    @contextlib.contextmanager
    def alone(self, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: not self.closed, timeout):
                raise Refused(grpc.StatusCode.UNAVAILABLE, "BUSY", "something else is under way")
            self.closed = True
            quiet = self.changed.wait_for(lambda: not self.busy, timeout)
        try:
            if not quiet:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "BUSY", "attachments are still under way")
            yield
        finally:
            with self.changed:
                self.closed = False
                self.changed.notify_all()


class Network:
    """Serves kelson.cni.v1.Network, and the attachment socket."""

    def __init__(self):
        self.base, self.setup, self.started, self.listener = Base(self), None, False, None
        self.control, self.turns, self.done, self.peers = threading.RLock(), Turns(), {}, set()

    def Preflight(self, request, context):
        problems = []
        if os.geteuid() != 0:
            problems.append(message("cni.v1.Problem", summary="not root", hint="run Kelson as root"))
        if not request.node.pod_cidrs:
            problems.append(message("cni.v1.Problem", summary="the node has no range of pod addresses"))
        return message("cni.v1.PreflightResponse", problems=problems)

    def Setup(self, request, context):
        absent = [p for p in ("bridge", "host-local", "portmap")
                  if not any(os.access(os.path.join(d, p), os.X_OK) for d in request.bin_dirs)]
        self.base.need(not absent, "PLUGIN_MISSING",
                       f"standard CNI plugins {', '.join(absent)} are not in {', '.join(request.bin_dirs)}")
        self.base.need(request.nftables, "NO_NFTABLES", "the kernel has no nftables")
        self.base.need(os.path.isabs(request.socket), "BAD_SETUP", f"socket {request.socket!r} is not an absolute path")
        with self.control:
            self.setup = request
        return message("cni.v1.SetupResponse")

    def Start(self, request, context):
        with self.control:
            self.start()
        return message("cni.v1.StartResponse", mtu=self.mtu())

    def start(self):
        self.ready_for("start")
        table, rules = f"inet kelson-{NAME}", []
        for cidr in self.setup.node.pod_cidrs:
            family = "ip6" if ":" in cidr else "ip"
            inside = [c for c in self.setup.cluster_cidrs if (":" in c) == (":" in cidr)] or [cidr]
            rules.append(f"{family} saddr {cidr} {family} daddr != {{ {', '.join(inside)} }} masquerade")
        self.tool(["nft", "-f", "-"], f"table {table}\ndelete table {table}\ntable {table} {{ chain postrouting {{\n"
                  "type nat hook postrouting priority srcnat;\n" + "\n".join(rules) + "\n}\n}\n")
        os.makedirs(self.records(), mode=0o700, exist_ok=True)
        self.serve()
        self.started = True
        self.judge()

    def ready_for(self, call):
        self.base.need(not self.base.drained, "DRAINED", "the plugin takes no more work")
        self.base.need(self.base.config is not None and self.setup is not None, "NOT_SET_UP", f"{call} before configure and setup")

    def Topology(self, requests, context):
        for request in requests:
            with self.control:
                self.base.need(self.started, "NOT_STARTED", "topology before start")
                known = set() if request.complete else self.peers
                self.peers = (known | {n.name for n in request.nodes}) - set(request.removed)
                self.judge()
            yield message("cni.v1.TopologyResponse")

    def judge(self):
        if self.peers:
            self.base.report("DEGRADED", "SingleNode", "pods of other nodes cannot be reached")
        else:
            self.base.report("READY")

    def Status(self, request, context):
        try:
            self.check_ready()
        except CNIError as e:
            return message("cni.v1.StatusResponse", code=e.code, message=str(e))
        return message("cni.v1.StatusResponse", ready=True)

    def Collect(self, request, context):
        self.ready_for("collect")
        with self.turns.alone(context.time_remaining()):
            removed = self.collect({(a.container_id, a.ifname) for a in request.valid})
        return message("cni.v1.CollectResponse", removed=[
            message("cni.v1.Attachment", container_id=c, ifname=i) for c, i in sorted(removed)])

    def Teardown(self, request, context):
        self.ready_for("teardown")
        with self.control, self.turns.alone(context.time_remaining()):
            if request.all:
                for entry in self.recorded():
                    self.detach(entry, time.monotonic() + 10)
                self.stop_serving()
                self.started = False
                self.base.report("UNREADY", "TornDown", "the network was taken down")
            if not self.recorded():
                self.tool(["nft", "-f", "-"], f"table inet kelson-{NAME}\ndelete table inet kelson-{NAME}\n")
                if self.base.config["bridge"] in (name for _, name in socket.if_nameindex()):
                    self.tool(["ip", "link", "delete", self.base.config["bridge"]])
        return message("cni.v1.TeardownResponse")

    def check_ready(self):
        if not self.started:
            raise CNIError(50, "the network was not started")

    def mtu(self):
        return self.base.config["mtu"] or self.setup.mtu or 1500

    def tool(self, argv, stdin=""):
        try:
            done = subprocess.run(argv, input=stdin, env={"PATH": self.setup.path}, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise Refused(grpc.StatusCode.INTERNAL, "TOOL_FAILED", f"{argv[0]}: {e}") from e
        if done.returncode != 0:
            raise Refused(grpc.StatusCode.INTERNAL, "TOOL_FAILED", f"{argv[0]}: {done.stderr.strip()}")

    # ---- attachments: the standard plugins do the work

    def records(self):
        return os.path.join(self.setup.cache_dir, NAME)

    def recorded(self):
        """What was attached, also by an earlier process: environment and configuration."""
        entries = []
        for path in glob.glob(os.path.join(glob.escape(self.records()), "*.json")):
            with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as f:
                entries.append(json.load(f))
        return entries

    def record(self, env):
        key = env["CNI_CONTAINERID"] + " " + env["CNI_IFNAME"]
        return os.path.join(self.records(), hashlib.sha256(key.encode()).hexdigest() + ".json")

    def attach(self, entry, deadline):
        self.check_ready()
        path = self.record(entry["env"])
        with open(path + ".tmp", "w", encoding="utf-8") as f:  # before the fact: collect finds what a crash leaves
            json.dump(entry, f)
        os.replace(path + ".tmp", path)
        try:
            result = None
            for plugin in self.chain(entry["config"]):
                result = self.delegate("ADD", plugin, {**entry, "prev": result}, deadline)
            return result
        except CNIError:
            with contextlib.suppress(CNIError):
                self.detach(entry, time.monotonic() + 10)
            raise

    def detach(self, entry, deadline):
        for plugin in reversed(self.chain(entry["config"])):
            self.delegate("DEL", plugin, entry, deadline)
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.record(entry["env"]))

    def chain(self, config):
        bridge = {
            "type": "bridge", "bridge": self.base.config["bridge"], "mtu": self.mtu(),
            "isDefaultGateway": True, "hairpinMode": True,
            "ipam": {"type": "host-local", "dataDir": self.setup.ipam_dir,
                     "ranges": [[{"subnet": c}] for c in self.setup.node.pod_cidrs]},
        }
        ports = (config.get("runtimeConfig") or {}).get("portMappings")
        if not ports:
            return [bridge]
        return [bridge, {"type": "portmap", "snat": True, "backend": "nftables", "runtimeConfig": {"portMappings": ports}}]

    def delegate(self, verb, plugin, entry, deadline):
        conf = {"cniVersion": entry["config"]["cniVersion"], "name": entry["config"]["name"], **plugin}
        previous = entry.get("prev") or (verb != "ADD" and entry["config"].get("prevResult"))
        if previous:
            conf["prevResult"] = previous
        path = next(p for d in self.setup.bin_dirs if os.access(p := os.path.join(d, plugin["type"]), os.X_OK))
        env = {**entry["env"], "CNI_COMMAND": verb, "CNI_PATH": ":".join(self.setup.bin_dirs), "PATH": self.setup.path}
        try:
            done = subprocess.run([path], input=json.dumps(conf).encode(), env=env, capture_output=True,
                                  timeout=max(deadline - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired:
            raise CNIError(11, f"{plugin['type']} took too long") from None
        except OSError as e:
            raise CNIError(5, f"execute {plugin['type']}: {e}") from e
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else None
        except ValueError:
            answer = None
        if done.returncode == 0:
            return answer
        if not isinstance(answer, dict):
            raise CNIError(999, f"{plugin['type']}: exit status {done.returncode}", done.stderr.decode(errors="replace")[-1000:])
        raise CNIError(answer.get("code", 999), answer.get("msg", ""), answer.get("details", ""))

    def collect(self, valid):
        removed, deadline = set(), time.monotonic() + 20
        for entry in self.recorded():
            key = entry["env"]["CNI_CONTAINERID"], entry["env"]["CNI_IFNAME"]
            if key not in valid:
                self.detach(entry, deadline)
                removed.add(key)
        # The addresses are one store for all plugins, so are the valid ones.
        for path in glob.glob(os.path.join(glob.escape(self.setup.ipam_dir), "*", "[0-9a-f]*")):
            with open(path, encoding="utf-8", errors="replace") as f:
                key = tuple(f.read().split()[:2])
            if len(key) == 2 and key not in valid:
                os.remove(path)
                removed.add(key)
        return removed

    # ---- the attachment socket

    def serve(self):
        path = self.setup.socket
        with contextlib.suppress(OSError):
            if self.listener and os.stat(path).st_ino == self.inode:
                return
        with contextlib.suppress(FileNotFoundError):
            os.remove(path + "~")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path + "~")
        os.chmod(path + "~", 0o600)
        listener.listen(128)
        os.rename(path + "~", path)  # replaces a stale one without a gap
        self.stop_serving()
        self.listener, self.path, self.inode = listener, path, os.stat(path).st_ino
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def stop_serving(self):
        if self.listener:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self.listener.close()
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self.inode:
                    os.remove(self.path)
            self.listener = None

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        """One request, one reply."""
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(10)
            verb, result = "none", "error"
            try:
                verb, deadline, env, stdin = read_request(connection)
                try:
                    reply, body, result = 0, self.operate(verb, deadline, env, stdin), "ok"
                finally:
                    self.done[verb, result] = self.done.get((verb, result), 0) + 1
            except CNIError as e:
                reply, body = 1, {"cniVersion": CNI_VERSIONS[-1], "code": e.code, "msg": str(e), "details": e.details}
            except Refused as e:
                reply, body = 1, {"cniVersion": CNI_VERSIONS[-1], "code": 11, "msg": str(e)}
            except (OSError, EOFError):
                raise
            except Exception as e:  # one operation fails, not the plugin
                log("error", "operation failed", verb=verb, error=repr(e))
                reply, body = 1, {"cniVersion": CNI_VERSIONS[-1], "code": 999, "msg": f"internal error: {e!r}"}
            body = b"" if body is None else json.dumps(body).encode()
            connection.sendall(struct.pack(">IBB", 2 + len(body), 1, reply) + body)

    def operate(self, verb, deadline, env, stdin):
        try:
            config = json.loads(stdin or b"{}")
            version = config.get("cniVersion")
        except (ValueError, RecursionError, AttributeError):
            raise CNIError(6, "the network configuration is not a JSON object") from None
        if verb == "VERSION":
            return {"cniVersion": CNI_VERSIONS[-1], "supportedVersions": CNI_VERSIONS}
        if version not in CNI_VERSIONS:
            raise CNIError(1, f"cniVersion {version} is not spoken, only {' and '.join(CNI_VERSIONS)}")
        if verb == "STATUS":
            return self.check_ready()
        if verb == "GC":
            valid = config.get("cni.dev/valid-attachments")
            if valid is None:
                raise CNIError(7, "cni.dev/valid-attachments is missing")
            with self.turns.alone(deadline - time.monotonic()):
                self.collect({(a["containerID"], a["ifname"]) for a in valid})
            return None
        keep = ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS")
        entry = {"env": {k: v for k, v in env.items() if k in keep}, "config": config}
        for key in ("CNI_CONTAINERID", "CNI_IFNAME") + (("CNI_NETNS",) if verb != "DEL" else ()):
            if not entry["env"].get(key):
                raise CNIError(4, f"{key} is missing")
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}", env["CNI_CONTAINERID"]):
            raise CNIError(4, "CNI_CONTAINERID is malformed")
        if not re.fullmatch(r"[^/:\s]{1,15}", env["CNI_IFNAME"]) or env["CNI_IFNAME"] in (".", ".."):
            raise CNIError(4, "CNI_IFNAME is malformed")
        if verb == "CHECK" and not config.get("prevResult"):
            raise CNIError(7, "prevResult is missing")
        with self.turns.one(env["CNI_CONTAINERID"], deadline - time.monotonic()):
            if verb == "ADD":
                return self.attach(entry, deadline)
            if verb == "DEL":
                return self.detach(entry, deadline)
            for plugin in self.chain(config):
                self.delegate("CHECK", plugin, entry, deadline)
            return None


def read_request(connection):
    def read(n):
        data = b""
        while len(data) < n:
            part = connection.recv(min(n - len(data), 1 << 16))
            if not part:
                raise EOFError
            data += part
        return data

    size, = struct.unpack(">I", read(4))
    if size > MAX_FRAME:
        raise CNIError(5, "the frame is longer than 1 MiB")
    frame = read(size)
    try:
        version, verb, milliseconds, count = struct.unpack_from(">BBIH", frame)
        if version != 1 or verb not in VERBS or count > 64:
            raise CNIError(5, f"frame of version {version} with verb {verb} and {count} strings")
        env, at = {}, 8
        for _ in range(count):
            length, = struct.unpack_from(">I", frame, at)
            at += 4 + length
            if at > len(frame):
                raise CNIError(5, "the frame is malformed")
            key, _, value = frame[at - length:at].decode().partition("=")
            env[key] = value
    except (struct.error, UnicodeDecodeError):
        raise CNIError(5, "the frame is malformed") from None
    return VERBS[verb], time.monotonic() + min(milliseconds / 1000 or 60, 300), env, frame[at:]


# ---- gRPC

def field(number, data):
    """A length-delimited protobuf field of less than 16 KiB."""
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


class ErrorStatus(grpc.Status):
    """A google.rpc.Status with a google.rpc.ErrorInfo, as gRPC trailers."""

    def __init__(self, code, reason, text):
        text = text[:2000]
        self.code, self.details = code, text
        info = field(1, reason.encode()) + field(2, b"kelson.io")
        packed = field(1, b"type.googleapis.com/google.rpc.ErrorInfo") + field(2, info)
        status = bytes([1 << 3, code.value[0]]) + field(2, text.encode()) + field(3, packed)
        self.trailing_metadata = (("grpc-status-details-bin", status),)


def guarded(method, streams):
    """Turns exceptions into gRPC errors."""
    def fail(e, context):
        if isinstance(e, Refused):
            context.abort_with_status(ErrorStatus(e.code, e.reason, str(e)))
        if isinstance(e, CNIError):
            context.abort_with_status(ErrorStatus(grpc.StatusCode.INTERNAL, f"CNI_{e.code}", str(e)))
        log("error", "call failed", method=method.__name__, error=repr(e))
        context.abort(grpc.StatusCode.INTERNAL, f"internal error: {e!r}")

    def unary(request, context):
        try:
            return method(request, context)
        except Exception as e:
            return fail(e, context)

    def stream(request, context):
        try:
            yield from method(request, context)
        except Exception as e:
            if context.is_active():
                fail(e, context)

    return stream if streams else unary


def handlers(implementations):
    """Every method of the contract's services, found by name."""
    for file in CONTRACT.file:
        for service in file.service:
            name, methods = f"{file.package}.{service.name}", {}
            for m in service.method if name in implementations else ():
                kind = "_".join(["stream" if s else "unary" for s in (m.client_streaming, m.server_streaming)])
                methods[m.name] = getattr(grpc, kind + "_rpc_method_handler")(
                    guarded(getattr(implementations[name], m.name), m.server_streaming),
                    request_deserializer=MESSAGES[m.input_type[1:]].FromString,
                    response_serializer=MESSAGES[m.output_type[1:]].SerializeToString)
            yield grpc.method_handlers_generic_handler(name, methods)
    serving = grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")  # status: SERVING
    yield grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": serving})


def await_end(wake, parent, lives_on):
    """Returns at SIGTERM, or when the host is gone and the plugin is not to outlive it."""
    mode = os.fstat(0).st_mode
    watched = [wake] + ([0] if not lives_on and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) else [])
    while lives_on or os.getppid() == parent:
        ready, _, _ = select.select(watched, [], [], 1)
        if wake in ready and signal.SIGTERM in os.read(wake, 64) or 0 in ready and not os.read(0, 4096):
            return


def main():
    if os.environ.get("KELSON_PLUGIN") != "kelson.plugin.v1":
        sys.exit(f"{NAME} {VERSION}: {SUMMARY}\nIt is a plugin of kind {KIND}, which Kelson starts: kelson plugin install FOLDER")
    if "1" not in os.environ.get("PLUGIN_PROTOCOL_VERSIONS", "1").split(","):
        sys.exit("pybridge: the host does not speak version 1 of the plugin contract")
    parent, lives_on = os.getppid(), os.environ.get("KELSON_PLUGIN_LIFETIME") == "node"
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)  # gets the number of each signal, whatever thread it meets
    signal.signal(signal.SIGTERM, lambda *_: None)
    for other in (signal.SIGINT, signal.SIGHUP):  # the terminal's, for the host
        signal.signal(other, signal.SIG_IGN)
    os.umask(0o077)
    load_contract()
    network = Network()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE),
        # The host may ask often whether the plugin lives.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000), ("grpc.keepalive_permit_without_calls", 1)])
    server.add_generic_rpc_handlers(tuple(handlers(
        {"kelson.plugin.v1.Plugin": network.base, "kelson.cni.v1.Network": network})))
    path = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], f"plugin{os.getpid()}")
    server.add_insecure_port("unix:" + path)
    server.start()
    os.chmod(path, 0o600)
    print(f"1|1|unix|{path}|grpc|", flush=True)
    os.dup2(2, 1)  # nobody reads the standard output any more
    await_end(wake, parent, lives_on)
    with contextlib.suppress(Refused):
        network.base.finish(5)
    server.stop(1).wait()
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


main()
