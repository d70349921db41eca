#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r'''
---
module: disk
short_description: Waits for shared disks of Tessera to be open on a node
description:
  - Waits until the daemon of this node has opened the disks that its configuration names, and tells what is on them.
  - Changes nothing. Which disks a node has is written in C(tesserad.conf); see the role C(core).
options:
  urls:
    description: The disks, as in C(tesserad.conf).
    type: list
    elements: str
    required: true
  reservations:
    description: Fail if a disk has no persistent reservations, so that nodes would be fenced by waiting for their leases.
    type: bool
    default: false
  timeout:
    description: How long to wait, in seconds.
    type: int
    default: 30
author:
  - Tessera contributors
'''

EXAMPLES = r'''
- name: The LUNs are seen by this node
  tessera.cluster.disk:
    urls:
      - iscsi://192.0.2.10:3260/iqn.2026-11.com.example:san/1
'''

RETURN = r'''
disks:
  description: The disks, each with url, state, size_bytes, reservations, label and contents.
  type: list
  returned: always
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tessera.cluster.plugins.module_utils.cli import Cli

KEYS = ('url', 'state', 'error', 'size_bytes', 'transport', 'reservations', 'label', 'contents')


def main():
    module = AnsibleModule(
        argument_spec=dict(
            urls=dict(type='list', elements='str', required=True),
            reservations=dict(type='bool', default=False),
            timeout=dict(type='int', default=30),
        ),
        supports_check_mode=True,
    )
    cli = Cli(module)
    urls = module.params['urls']

    def look():
        rc, data, err = cli.ask('disk', 'list')
        if rc:
            return False, ([], err)
        have = dict((d['url'], d) for d in data)
        for url in urls:
            if url not in have:
                return False, (data, 'disk %s: not in tesserad.conf of this node, or the daemon was started before it was written there; restart it' % url)
            if have[url]['state'] != 'open':
                return False, (data, 'disk %s: %s' % (url, have[url].get('error', have[url]['state'])))
        return True, ([have[u] for u in urls], '')

    done, (data, why) = cli.wait(0 if module.check_mode else module.params['timeout'], look)
    disks = [dict((k, d[k]) for k in KEYS if k in d) for d in data]
    if not done and not module.check_mode:
        module.fail_json(msg='%s (waited %d s)' % (why, module.params['timeout']), disks=disks)
    if module.params['reservations']:
        without = [d['url'] for d in disks if not d.get('reservations')]
        if without:
            module.fail_json(msg='no persistent reservations: %s; switch them on at the target, or allow disks without' % ', '.join(without), disks=disks)
    module.exit_json(changed=False, disks=disks)


if __name__ == '__main__':
    main()
