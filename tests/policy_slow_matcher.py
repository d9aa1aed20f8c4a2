"""A second opinion on policies: the rules of `docs/policy.md`, applied word by word to plain JSON.

Shares nothing with the package: it reads the review's JSON and the policy's tree, and remembers nothing.
"""


def level_of(policy, review):
    """Return (level, omitManagedFields, index of the rule) for a review's JSON under a policy's tree."""
    for index, rule in enumerate(policy["rules"]):
        if all(condition(rule, review["request"]) for condition in CONDITIONS):
            if set(stages(review["request"])) <= {*policy.get("omitStages", []), *rule.get("omitStages", [])}:
                return "None", False, index
            return rule["level"], rule.get("omitManagedFields", policy.get("omitManagedFields", False)), index
    return "None", False, None


def stages(request):
    return {"CONNECT": ["ResponseStarted", "ResponseComplete"]}.get(request["operation"], ["ResponseComplete"])


def user(rule, request):
    users = rule.get("users")
    return not users or request["userInfo"].get("username", "") in users


def user_group(rule, request):
    groups = rule.get("userGroups")
    return not groups or any(group in groups for group in request["userInfo"].get("groups") or [])


def verb(rule, request):
    verbs = rule.get("verbs")
    return not verbs or any(verb in verbs for verb in verbs_of(request))


def verbs_of(request):
    match request["operation"], request.get("name", ""):
        case "UPDATE", _:
            return ["update", "patch"]
        case "DELETE", "":
            return ["deletecollection"]
        case "DELETE", _:
            return ["delete"]
        case _:
            return ["create"]


def namespace(rule, request):
    namespaces = rule.get("namespaces")
    group, resource, subresource = asked(request)
    of_namespace = request["operation"] == "CREATE" and (group, resource, subresource) == ("", "namespaces", "")
    return not namespaces or ("" if of_namespace else request.get("namespace", "")) in namespaces


def resource(rule, request):
    entries = rule.get("resources")
    return not entries or any(resource_entry(entry, request) for entry in entries)


def resource_entry(entry, request):
    group, resource, subresource = asked(request)
    name = "" if request["operation"] == "CREATE" and not subresource else request.get("name", "")
    if entry.get("group", "") not in ("*", group):
        return False
    if not entry.get("resources"):
        return True
    if entry.get("resourceNames") and name not in entry["resourceNames"]:
        return False
    return any(pattern_matches(pattern, resource, subresource) for pattern in entry["resources"])


def pattern_matches(pattern, resource, subresource):
    if pattern == "*":
        return True
    if pattern.startswith("*/") and subresource and pattern[2:] == subresource:
        return True
    if pattern.endswith("/*") and pattern[:-2] == resource:
        return True
    return pattern == (f"{resource}/{subresource}" if subresource else resource)


def asked(request):
    if request.get("requestResource"):
        return (
            request["requestResource"]["group"],
            request["requestResource"]["resource"],
            request.get("requestSubResource", ""),
        )
    return request["resource"]["group"], request["resource"]["resource"], request.get("subResource", "")


def no_url(rule, request):
    return not rule.get("nonResourceURLs")


CONDITIONS = (user, user_group, verb, namespace, resource, no_url)
