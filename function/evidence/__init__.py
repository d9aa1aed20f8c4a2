"""A sealed journal against what was signed for it: collected, recomputed, compared. docs/evidence.md is the manual.

* `log`: what lies in one process directory, and which of it known keys have signed.
* `hashing`: lines of segments to trees, beside the heads that they must pass.
* `verification`: the verb: findings about every directory. `anchors`: heads that are kept elsewhere.
* `proving`: one entry, proved for somebody who has nothing else.
"""
