#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r'''
---
module: cluster
short_description: Waits for a node of a Tessera cluster to be ready
description:
  - Waits until the daemon of this node is in a quorate view, holds its lease and has opened its disks.
  - Changes nothing, so check mode looks once, without waiting.
options:
  nodes:
    description: Ids of nodes that must be in the view.
    type: list
    elements: int
    default: []
  others:
    description: Whether other nodes may be in the view as well.
    type: bool
    default: true
  timeout:
    description: How long to wait, in seconds.
    type: int
    default: 60
author:
  - Tessera contributors
'''

EXAMPLES = r'''
- name: All three are there
  tessera.cluster.cluster:
    nodes: [1, 2, 3]
'''

RETURN = r'''
state:
  description: The state of the daemon, C(ready) or what is missing.
  type: str
  returned: always
members:
  description: Ids of the nodes in the view.
  type: list
  returned: always
version:
  description: Version of the running daemon.
  type: str
  returned: always
mounts:
  description: File systems that are mounted on this node, with their directories.
  type: list
  returned: always
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tessera.cluster.plugins.module_utils.cli import Cli


def main():
    module = AnsibleModule(
        argument_spec=dict(
            nodes=dict(type='list', elements='int', default=[]),
            others=dict(type='bool', default=True),
            timeout=dict(type='int', default=60),
        ),
        supports_check_mode=True,
    )
    cli = Cli(module)
    want = set(module.params['nodes'])

    def look():
        rc, status, err = cli.ask('status')
        if rc:
            return False, dict(state=err, members=[], version='', mounts=[])
        view = status.get('view', {})
        have = sorted(m['node'] for m in view.get('members', []))
        result = dict(
            state=status['state'],
            members=have,
            version=status.get('version', ''),
            mounts=[dict(name=m['name'], path=m['dir'], options=m.get('options', '')) for m in status.get('mounts', [])],
        )
        there = want <= set(have) and (module.params['others'] or not want or want == set(have))
        return status['state'] == 'ready' and there, result

    done, result = cli.wait(0 if module.check_mode else module.params['timeout'], look)
    if not done and not module.check_mode:
        missing = sorted(want - set(result['members']))
        beside = [] if module.params['others'] or not want else sorted(set(result['members']) - want)
        module.fail_json(
            msg='this node is not ready after %d s: %s%s%s' % (
                module.params['timeout'], result['state'],
                '; not in the view: nodes %s' % ', '.join(map(str, missing)) if missing else '',
                '; in the view, but not expected: nodes %s' % ', '.join(map(str, beside)) if beside else ''),
            **result)
    module.exit_json(changed=False, **result)


if __name__ == '__main__':
    main()
