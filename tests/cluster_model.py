"""A cluster as a model: what it stores at every moment, and the reviews that its API server would send meanwhile.

It follows the generic registry of kubernetes 1.36: a webhook is asked inside the update's transaction, with the object
as it would be stored; the update may lose afterwards. Whoever reads only the reviews must find out what was stored.
"""

import datetime as dt
import json
import uuid
from random import Random

SECOND_NS = 10**9
START_NS = 1_790_000_000 * SECOND_NS  # 2026-09-21T14:13:20Z

KINDS = {
    "Deployment": ("apps", "v1", "deployments", True),
    "ConfigMap": ("", "v1", "configmaps", True),
    "Pod": ("", "v1", "pods", True),
    "Widget": ("example.com", "v1", "widgets", True),
    "ClusterRole": ("rbac.authorization.k8s.io", "v1", "clusterroles", False),
    "Service": ("", "v1", "services", True),
    "Endpoints": ("", "v1", "endpoints", True),
}
ORDINARY = ("Deployment", "ConfigMap", "Pod", "Widget", "ClusterRole")
WITH_GENERATION = ("Deployment", "Pod", "Widget")
WITH_STATUS = ("Deployment", "Pod", "Widget")
DELETE_OPTIONS = {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}  # what no DELETE is without
USERS = ("alice", "bob", "system:serviceaccount:kube-system:deployment-controller")


def timestamp(ns):
    return dt.datetime.fromtimestamp(ns // SECOND_NS, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def copied(value):
    """Return a copy of a JSON value: `copy.deepcopy`, which knows more, takes most of a run."""
    if isinstance(value, dict):
        return {name: copied(field) for name, field in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


class Review:
    """One review: its body, when it was received, and what became of the request.

    ``fate`` is ``stored``, ``lost``, ``refused``, ``no-op``, ``dry-run`` or ``repeated``.
    """

    def __init__(self, request, received_ns, fate):
        self.request = request
        self.received_ns = received_ns
        self.fate = fate

    @property
    def uid(self):
        return self.request["uid"]

    def body(self):
        text = json.dumps(
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": self.request},
            separators=(",", ":"),
        )
        return text.encode() + b"\n"


class Cluster:
    """``stored`` is what etcd has, by kind, namespace and name; ``past`` every state of it, with its time.

    What is stored, or was sent, is never changed: an edit is made on a copy.
    """

    def __init__(self, seed, *, namespaces=("shop", "ops"), names=("web", "db"), kinds=ORDINARY, late=True):
        self.random = Random(seed)
        self.namespaces = namespaces
        self.names = names
        self.kinds = kinds
        self.late = late
        self.now_ns = START_NS
        self.version = 100
        self.stored = {}
        self.reviews = []
        self.past = []  # (time, path, object or None), each stored state
        self.moments = []  # times at which nothing is going on
        self.operations = (
            ("create", 6), ("update", 8), ("status", 5), ("scale", 3), ("bind", 3), ("no_op", 2), ("race", 4),
            ("refused", 2), ("delete", 4), ("finalize", 4), ("collection", 1), ("dry_run", 1), ("taken", 1),
            ("evict", 1), ("kubelet", 3),
        )  # fmt: skip

    # -- time passes ----------------------------------------------------------------------------------------------

    def run(self, count):
        """Do so many operations; return the reviews as they were received."""
        names = [name for name, _ in self.operations]
        weights = [weight for _, weight in self.operations]
        for _ in range(count):
            self.now_ns += self.random.choice((10**7, 10**8, SECOND_NS, 30 * SECOND_NS, 600 * SECOND_NS))
            self.moments.append(self.now_ns - 1)
            getattr(self, "do_" + self.random.choices(names, weights)[0])()
        self.moments.append(self.now_ns + SECOND_NS)
        return self.received()

    def received(self):
        return sorted(self.reviews, key=lambda review: review.received_ns)

    # -- operations -----------------------------------------------------------------------------------------------

    def do_create(self):
        kind = self.random.choice(self.kinds)
        path = self._path(kind)
        if path in self.stored:
            return
        obj = self._new(kind, path)
        self._review("CREATE", path, obj, None)
        self._store(path, obj)

    def do_update(self):
        if (path := self._any()) is None:
            return
        old = self.stored[path]
        new = self._edited(old)
        fate = "no-op" if new == old else "stored"
        self._review("UPDATE", path, new, old, fate=fate)
        if fate == "stored":
            self._store(path, new)

    def do_status(self):
        if (path := self._any(WITH_STATUS)) is None:
            return
        old = self.stored[path]
        new = self._with_status(old)
        fate = "no-op" if new == old else "stored"
        self._review("UPDATE", path, new, old, subresource="status", fate=fate)
        if fate == "stored":
            self._store(path, new)

    def do_scale(self):
        if (path := self._any(("Deployment",))) is None:
            return
        old = self.stored[path]
        replicas = self._another(old["spec"]["replicas"])
        self._review_scale(path, old, replicas)
        self._store(path, self._scaled(old, replicas))

    def do_bind(self):
        unbound = [path for path in self._paths(("Pod",)) if "nodeName" not in self.stored[path]["spec"]]
        unbound = [path for path in unbound if "deletionTimestamp" not in self.stored[path]["metadata"]]
        if not unbound:
            return
        path = self.random.choice(unbound)
        node, labels = "n1", self.random.choice(({}, {"zone": "a"}))
        metadata = {"name": path[2], "namespace": path[1]}
        if self.random.random() < 0.5:
            metadata["uid"] = self.stored[path]["metadata"]["uid"]
        if labels:
            metadata["labels"] = labels
        target = {"kind": "Node", "name": node}
        binding = {"kind": "Binding", "apiVersion": "v1", "metadata": metadata, "target": target}
        self._review("CREATE", path, binding, None, subresource="binding")
        pod = copied(self.stored[path])
        pod["spec"]["nodeName"] = node
        if labels:
            pod["metadata"].setdefault("labels", {}).update(labels)
        pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self._store(path, pod)

    def do_no_op(self):
        if (path := self._any()) is not None:
            self._review("UPDATE", path, self.stored[path], self.stored[path], fate="no-op")

    def do_race(self):
        """Two start from one state, and one wins; the loser's review may come last, and may come again."""
        if (path := self._any()) is None:
            return
        old = self.stored[path]
        contenders = [self._edited(old), self._edited(old)]
        if path[0] in WITH_STATUS and self.random.random() < 0.5:
            contenders[self.random.randrange(2)] = self._with_status(old)
        if contenders[0] == contenders[1] or old in contenders:
            return
        winner = self.random.randrange(2)
        delay_ns = self.random.choice((0, 5 * 10**6, SECOND_NS)) if self.late else 0
        for number, new in enumerate(contenders):
            subresource = (
                "status"
                if new["metadata"].get("generation") == old["metadata"].get("generation")
                and (path[0] in WITH_STATUS and new["spec"] == old["spec"] and new.get("status") != old.get("status"))
                else ""
            )
            fate = "stored" if number == winner else "lost"
            self._review("UPDATE", path, new, old, subresource=subresource, fate=fate)
            if fate == "lost":
                self.reviews[-1].received_ns += delay_ns
        self._store(path, contenders[winner])
        if self.random.random() < 0.5:  # the server tries a patch again on what is stored now
            self.now_ns += 10**6
            current = self.stored[path]
            again = self._edited(current)
            if again != current:
                self._review("UPDATE", path, again, current)
                self._store(path, again)

    def do_refused(self):
        if (path := self._any()) is None:
            return
        old = self.stored[path]
        if self.random.random() < 0.3:
            self._review("DELETE", path, None, old, fate="refused", options=DELETE_OPTIONS)
        else:
            new = self._edited(old)
            self._review("UPDATE", path, new, old, fate="no-op" if new == old else "refused")

    def do_delete(self):
        if (path := self._any()) is not None:
            self._delete(path, self._options())

    def do_kubelet(self):
        """Pods that are being deleted go at last."""
        pods = [path for path in self._paths(("Pod",)) if "deletionTimestamp" in self.stored[path]["metadata"]]
        if pods:
            self._delete(self.random.choice(pods), DELETE_OPTIONS | {"gracePeriodSeconds": 0})

    def do_finalize(self):
        held = [path for path in self.stored if self.stored[path]["metadata"].get("finalizers")]
        if not held:
            return
        path = self.random.choice(held)
        old = self.stored[path]
        new = copied(old)
        new["metadata"]["finalizers"].pop()
        if not new["metadata"]["finalizers"]:
            del new["metadata"]["finalizers"]
        self._managed(new, "finalizer")
        self._review("UPDATE", path, new, old)
        metadata = old["metadata"]
        gone = "finalizers" not in new["metadata"] and "deletionTimestamp" in metadata
        if gone and not metadata.get("deletionGracePeriodSeconds"):
            self._remove(path)
        else:
            self._store(path, new)

    def do_collection(self):
        kind, namespace = self.random.choice(self.kinds), self.random.choice(self.namespaces)
        for path in [path for path in self.stored if path[:2] == (kind, namespace)]:
            self._delete(path, self._options(), collection=True)

    def do_dry_run(self):
        if (path := self._any()) is None:
            return
        old = self.stored[path]
        if self.random.random() < 0.5:
            self._review("UPDATE", path, self._edited(old), old, fate="dry-run")
        else:
            self._review("DELETE", path, None, old, fate="dry-run", options=DELETE_OPTIONS)

    def do_taken(self):
        """A creation fails since the name is taken: it was reviewed all the same."""
        if (path := self._any()) is not None:
            self._review("CREATE", path, self._new(path[0], path), None, fate="refused")

    def do_evict(self):
        pods = [path for path in self._paths(("Pod",)) if "deletionTimestamp" not in self.stored[path]["metadata"]]
        if not pods:
            return
        path = self.random.choice(pods)
        eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": path[2], "namespace": path[1]}}
        self._review("CREATE", path, eviction, None, subresource="eviction")
        old = copied(self.stored[path])
        if "nodeName" not in old["spec"] and not old["metadata"].get("finalizers"):
            self._remove(path)
            return
        old["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        held = old["metadata"].get("finalizers", [])
        self._store(path, self._being_deleted(old, 30 if "nodeName" in old["spec"] else 0, held))

    # -- deleting -------------------------------------------------------------------------------------------------

    def _delete(self, path, options, *, collection=False):
        """As the registry does it: a first transaction that marks, a second one that removes."""
        old = self.stored[path]
        metadata = old["metadata"]
        finalizers = [one for one in metadata.get("finalizers", []) if one not in ("orphan", "foregroundDeletion")]
        finalizers += {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(
            options.get("propagationPolicy"), []
        )
        if "propagationPolicy" not in options:
            finalizers = metadata.get("finalizers", [])
        is_pending = "deletionTimestamp" in metadata
        graceful, grace = False, 0
        if path[0] == "Pod":
            bound = "nodeName" in old["spec"]
            asked = options.get("gracePeriodSeconds", 30)
            if is_pending:
                left = metadata.get("deletionGracePeriodSeconds", 0)
                if left and asked >= left:
                    self._review_delete(path, old, options, collection, fate="no-op")
                    return
                graceful, grace = left > 0, asked if left else 0
            else:
                graceful, grace = True, asked if bound else 0
        if graceful or finalizers or finalizers != metadata.get("finalizers", []):
            marked = self._being_deleted(old, grace, finalizers) if not is_pending or graceful else old
            if is_pending and not graceful:
                marked = copied(old)
                marked["metadata"].pop("finalizers", None)
                if finalizers:
                    marked["metadata"]["finalizers"] = list(finalizers)
            fate = "stored" if marked != old else "no-op"
            self._review_delete(path, old, options, collection, fate=fate)
            if fate == "stored":
                self._store(path, marked)
            if finalizers or grace > 0:
                return
            old = self.stored[path]
            self.now_ns += 10**6
        for number in range(self.random.choice((1, 1, 2))):
            self._review_delete(path, old, options, collection, fate="repeated" if number else "stored")
        self._remove(path)

    def _being_deleted(self, old, grace, finalizers):
        new = copied(old)
        metadata = new["metadata"]
        if "generation" in metadata and "deletionTimestamp" not in metadata:
            metadata["generation"] += 1
        metadata["deletionTimestamp"] = timestamp(self.now_ns + grace * SECOND_NS)
        metadata["deletionGracePeriodSeconds"] = grace
        metadata.pop("finalizers", None)
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        return new

    def _options(self):
        options = dict(DELETE_OPTIONS)
        policy = self.random.choice((None, "Background", "Background", "Orphan", "Foreground"))
        if policy:
            options["propagationPolicy"] = policy
        return options

    # -- objects --------------------------------------------------------------------------------------------------

    def _path(self, kind):
        namespaced = KINDS[kind][3]
        return kind, self.random.choice(self.namespaces) if namespaced else "", self.random.choice(self.names)

    def _paths(self, kinds=None):
        return [path for path in self.stored if kinds is None or path[0] in kinds]

    def _any(self, kinds=None):
        paths = self._paths(kinds)
        return self.random.choice(paths) if paths else None

    def _another(self, number):
        return self.random.choice([one for one in (0, 1, 2, 5) if one != number])

    def _new(self, kind, path):
        group, version, _, _ = KINDS[kind]
        metadata = {"name": path[2]}
        if path[1]:
            metadata["namespace"] = path[1]
        metadata["uid"] = str(uuid.UUID(int=self.random.getrandbits(128)))
        if kind in WITH_GENERATION:
            metadata["generation"] = 1
        metadata["creationTimestamp"] = timestamp(self.now_ns)
        if self.random.random() < 0.5:
            metadata["labels"] = {"app": self.random.choice(("a", "b"))}
        if self.random.random() < 0.3:
            metadata["finalizers"] = ["example.com/hold", "example.com/wait"][: self.random.randint(1, 2)]
        obj = {"kind": kind, "apiVersion": f"{group}/{version}" if group else version, "metadata": metadata}
        if kind == "Deployment":
            obj["spec"] = {"replicas": 1, "template": {"spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}}
        elif kind == "Pod":
            obj["spec"] = {"containers": [{"name": "web", "image": "nginx:1"}], "terminationGracePeriodSeconds": 30}
        elif kind == "Widget":
            obj["spec"] = {"size": 1, "ratio": 0.5, "big": 12345678901234567890123}
        elif kind == "ConfigMap":
            obj["data"] = {"a": "1"}
        elif kind == "Service":
            obj["spec"] = {"clusterIP": "10.0.0.1"}
        elif kind == "Endpoints":
            obj["subsets"] = [{"addresses": [{"ip": "10.1.0.1"}]}]
        else:
            obj["rules"] = [{"verbs": ["get"], "resources": ["pods"]}]
        if kind in WITH_STATUS:
            obj["status"] = {}
        self._managed(obj, "creator")
        return obj

    def _edited(self, old):
        """Return the object with another spec, data, label or annotation; now and then as it is."""
        new = copied(old)
        kind, metadata = new["kind"], new["metadata"]
        choice = self.random.randrange(10)
        value = str(self.random.randrange(5))
        if choice == 0:
            metadata.setdefault("labels", {})[self.random.choice("xy")] = value
        elif choice == 1:
            metadata.setdefault("annotations", {})["example.com/note"] = value
        elif choice == 2 and "labels" in metadata:
            del metadata["labels"]
        elif kind == "ConfigMap":
            data = new.setdefault("data", {})
            key = self.random.choice("abc")
            if key in data and self.random.random() < 0.3:
                del data[key]
            else:
                data[key] = value
        elif kind == "Deployment":
            spec = new["spec"]
            if self.random.random() < 0.5:
                spec["replicas"] = self.random.randrange(4)
            else:
                self._edit_containers(spec["template"]["spec"]["containers"], value)
        elif kind == "Pod":
            new["spec"]["containers"][0]["image"] = f"nginx:{value}"
        elif kind == "Widget":
            new["spec"]["size"] = self.random.randrange(4)
        elif kind == "Service":
            new["spec"]["clusterIP"] = f"10.0.0.{value}"
        elif kind == "Endpoints":
            new["subsets"] = [{"addresses": [{"ip": f"10.1.0.{value}"}]}]
        else:
            new["rules"] = [{"verbs": ["get", "list"][: self.random.randint(1, 2)], "resources": ["pods"]}]
        if new != old:
            if "generation" in metadata and new["spec"] != old["spec"]:
                metadata["generation"] += 1
            self._managed(new, "editor")
        return new

    def _edit_containers(self, containers, value):
        if len(containers) > 1 and self.random.random() < 0.5:
            containers.pop()
        elif self.random.random() < 0.5:
            containers[0]["image"] = f"nginx:{value}"
        else:
            containers.append({"name": f"side-{value}-{len(containers)}", "image": "proxy:1"})

    def _with_status(self, old):
        new = copied(old)
        new["status"] = {"observed": self.random.randrange(1000)}
        self._managed(new, "controller")
        return new

    def _scaled(self, old, replicas):
        new = copied(old)
        new["spec"]["replicas"] = replicas
        new["metadata"]["generation"] += 1
        self._managed(new, "scaler")
        return new

    def _managed(self, obj, manager):
        entries = [one for one in obj["metadata"].get("managedFields", []) if one["manager"] != manager]
        entry = {"manager": manager, "operation": "Update", "time": timestamp(self.now_ns)}
        obj["metadata"]["managedFields"] = [*entries, entry]

    # -- what is stored, and what is sent -------------------------------------------------------------------------

    def _store(self, path, obj):
        self.version += self.random.randint(1, 3)
        metadata = {}
        for name, value in obj["metadata"].items():
            if name == "resourceVersion":
                continue
            metadata[name] = value
            if name == "uid":
                metadata["resourceVersion"] = str(self.version)
        obj = obj | {"metadata": metadata}
        self.stored[path] = obj
        self.past.append((self.now_ns, path, obj))

    def _remove(self, path):
        del self.stored[path]
        self.past.append((self.now_ns, path, None))
        endpoints = ("Endpoints", *path[1:])
        if path[0] == "Service" and endpoints in self.stored:  # whoever made them; no webhook is asked
            old = self.stored[endpoints]
            if not (held := old["metadata"].get("finalizers")):
                self._remove(endpoints)
            elif "deletionTimestamp" not in old["metadata"]:
                self._store(endpoints, self._being_deleted(old, 0, held))

    def _review_scale(self, path, old, replicas):
        def scale(number):
            metadata = {name: old["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
            spec = {"replicas": number} if number else {}
            return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": {}}

        self._review("UPDATE", path, scale(replicas), scale(old["spec"]["replicas"]), subresource="scale")

    def _review_delete(self, path, old, options, collection, *, fate):
        self._review("DELETE", path, None, old, fate=fate, options=options, named=not collection)

    def _review(self, operation, path, new, old, *, subresource="", fate="stored", options=None, named=True):
        group, version, resource, _ = KINDS[path[0]]
        request = {
            "uid": str(uuid.UUID(int=self.random.getrandbits(128))),
            "kind": {"group": group, "version": version, "kind": path[0]},
            "resource": {"group": group, "version": version, "resource": resource},
        }
        if subresource:
            request["subResource"] = subresource
        if named:
            request["name"] = path[2]
        if path[1]:
            request["namespace"] = path[1]
        request |= {
            "operation": operation,
            "userInfo": {"username": self.random.choice(USERS)},
            "object": new,
            "oldObject": old,
            "dryRun": fate == "dry-run",
            "options": options,
        }
        self.reviews.append(Review(request, self.now_ns, fate))
        self.now_ns += 2 * 10**6

    def at(self, when_ns):
        """Return what was stored at a time, by path."""
        found = {path: obj for time_ns, path, obj in self.past if time_ns <= when_ns}
        return {path: obj for path, obj in found.items() if obj is not None}
