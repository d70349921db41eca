#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A strict reader of the Prometheus text format (version 0.0.4): every sample has its family's HELP and TYPE before it, families are not
split, no sample twice, label values are escaped, counters end in _total and are no negative numbers, histograms have growing buckets, +Inf,
_sum and _count that agree.

usage: promcheck.py FILE              prints the number of samples, or what is wrong
       promcheck.py FILE NEWER        also: no counter went back; prints those that grew
       promcheck.py --self-test
"""
import math
import re
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(r"(%s)(?:\{(.*)\})? (\S+)$" % NAME)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')


class Bad(Exception):
    pass


def labels(text, where):
    out, at = {}, 0
    while at < len(text):
        m = LABEL.match(text, at)
        if not m:
            raise Bad("%s: labels cannot be read at '%s'" % (where, text[at:at + 30]))
        if m.group(1) in out:
            raise Bad("%s: label %s twice" % (where, m.group(1)))
        out[m.group(1)] = m.group(2)
        at = m.end()
    return out


def number(text, where):
    if text in ("+Inf", "-Inf", "NaN"):
        return float(text.replace("Inf", "inf"))
    try:
        return float(text)
    except ValueError:
        raise Bad("%s: '%s' is no number" % (where, text))


def family_of(name, types):
    for suffix in ("_bucket", "_sum", "_count"):
        base = name[:-len(suffix)]
        if name.endswith(suffix) and types.get(base) == "histogram":
            return base
    return name


def parse(text):
    """{(name, frozenset of labels): value} and {family: type}; raises Bad."""
    if text and not text.endswith("\n"):
        raise Bad("the last line has no end")
    types, helps, done, samples, current = {}, set(), set(), {}, None
    for i, line in enumerate(text.split("\n")[:-1], 1):
        where = "line %d" % i
        if not line:
            continue
        if line.startswith("# HELP ") or line.startswith("# TYPE "):
            parts = line.split(" ", 3)
            if len(parts) < 4 or not re.fullmatch(NAME, parts[2]):
                raise Bad("%s: malformed: %s" % (where, line))
            name = parts[2]
            if parts[1] == "HELP":
                if name in helps:
                    raise Bad("%s: HELP of %s twice" % (where, name))
                helps.add(name)
            else:
                if name in types or name in done:
                    raise Bad("%s: TYPE of %s twice, or behind its samples" % (where, name))
                if parts[3] not in ("counter", "gauge", "histogram", "summary", "untyped"):
                    raise Bad("%s: type %s" % (where, parts[3]))
                types[name] = parts[3]
            if name != current and name in done:
                raise Bad("%s: family %s is split" % (where, name))
            if current and name != current:
                done.add(current)
            current = name
            continue
        if line.startswith("#"):
            continue
        m = SAMPLE.match(line)
        if not m:
            raise Bad("%s: no sample: %s" % (where, line[:80]))
        fam = family_of(m.group(1), types)
        if fam not in types or fam not in helps:
            raise Bad("%s: %s has no TYPE or HELP before it" % (where, fam))
        if fam != current:
            raise Bad("%s: a sample of %s within family %s" % (where, fam, current))
        key = (m.group(1), frozenset(labels(m.group(2) or "", where).items()))
        if key in samples:
            raise Bad("%s: %s twice with the same labels" % (where, m.group(1)))
        samples[key] = number(m.group(3), where)
        if types[fam] == "counter" and (not fam.endswith("_total") or not samples[key] >= 0):
            raise Bad("%s: counter %s: no _total, or below 0" % (where, fam))
        if types[fam] == "histogram" and m.group(1) == fam:
            raise Bad("%s: a histogram has buckets, sum and count only" % where)
    histograms(samples, types)
    return samples, types


def histograms(samples, types):
    groups = {}
    for (name, ls), v in samples.items():
        fam = family_of(name, types)
        if types[fam] == "histogram":
            rest = frozenset(x for x in ls if x[0] != "le")
            groups.setdefault((fam, rest), {"buckets": []})
            if name.endswith("_bucket"):
                le = dict(ls).get("le")
                if le is None:
                    raise Bad("%s: a bucket without le" % fam)
                groups[(fam, rest)]["buckets"].append((number(le, fam), v))
            else:
                groups[(fam, rest)][name[len(fam):]] = v
    for (fam, rest), g in groups.items():
        where = "%s%s" % (fam, sorted(rest))
        b = sorted(g["buckets"])
        if not b or b[-1][0] != math.inf or "_sum" not in g or "_count" not in g:
            raise Bad("%s: +Inf, _sum or _count is missing" % where)
        if any(x[1] > y[1] for x, y in zip(b, b[1:])):
            raise Bad("%s: buckets do not grow" % where)
        if b[-1][1] != g["_count"]:
            raise Bad("%s: +Inf and _count differ" % where)


def grew(old, new, types):
    out = set()
    for key, v in old.items():
        fam = family_of(key[0], types)
        if types.get(fam) not in ("counter", "histogram") or key not in new:
            continue
        if new[key] < v:
            raise Bad("%s%s went back from %s to %s" % (key[0], sorted(key[1]), v, new[key]))
        if new[key] > v:
            out.add(fam)
    return out | {family_of(k[0], types) for k in new if k not in old and types.get(family_of(k[0], types)) in ("counter", "histogram") and new[k] > 0}


GOOD = """# HELP a_total Help.
# TYPE a_total counter
a_total{x="1\\"\\\\"} 3
a_total{x="2"} 4
# HELP h Help.
# TYPE h histogram
h_bucket{le="0.1"} 1
h_bucket{le="+Inf"} 2
h_sum 0.3
h_count 2
"""


def self_test():
    parse(GOOD)
    planted = {
        "no end": GOOD[:-1], "no type": GOOD.replace("# TYPE a_total counter\n", ""), "no help": GOOD.replace("# HELP a_total Help.\n", ""),
        "twice": GOOD.replace('x="2"', 'x="1\\"\\\\"'), "a quote": GOOD.replace('x="2"', 'x="2""'), "a number": GOOD.replace("} 4", "} four"),
        "negative": GOOD.replace("} 4", "} -4"), "no _total": GOOD.replace("a_total", "a"), "buckets": GOOD.replace('"0.1"} 1', '"0.1"} 3'),
        "no +Inf": GOOD.replace('h_bucket{le="+Inf"} 2\n', ""), "count": GOOD.replace("h_count 2", "h_count 3"), "no sum": GOOD.replace("h_sum 0.3\n", ""),
        "split": GOOD + 'a_total{x="3"} 1\n', "type": GOOD.replace("histogram", "histograms"), "a blank name": GOOD + " 1\n",
    }
    missed = []
    for what, text in planted.items():
        try:
            parse(text)
            missed.append(what)
        except Bad:
            pass
    s, t = parse(GOOD)
    try:
        grew(s, parse(GOOD.replace("} 4", "} 1"))[0], t)
        missed.append("a counter that goes back")
    except Bad:
        pass
    for m in missed:
        print("planted and not seen: %s" % m)
    print("%d faults planted, %d not seen" % (len(planted) + 1, len(missed)))
    return 1 if missed else 0


def main():
    if sys.argv[1] == "--self-test":
        return self_test()
    try:
        with open(sys.argv[1], encoding="utf-8", newline="") as f:
            old, types = parse(f.read())
        if len(sys.argv) > 2:
            with open(sys.argv[2], encoding="utf-8", newline="") as f:
                new, types = parse(f.read())
            print("\n".join(sorted(grew(old, new, types))))
        else:
            print("%d samples of %d families" % (len(old), len(types)))
    except Bad as e:
        print("%s: %s" % (sys.argv[-1], e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
