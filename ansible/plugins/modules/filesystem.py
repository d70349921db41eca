#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r'''
---
module: filesystem
short_description: Makes a Tessera file system on shared disks that are empty
description:
  - Makes a file system, on one node for all, if none of that name is on the disks that this node sees.
  - A disk that carries anything else (a partition table, another file system, another Tessera label) is refused. There is no option
    to overwrite it; that is for a person with C(tessera fs create --force).
options:
  name:
    description: Name of the file system.
    type: str
    required: true
  disks:
    description: URLs of its disks.
    type: list
    elements: str
    required: true
  block_size:
    description: Data block size, such as C(1M).
    type: str
  log_slots:
    description: How many nodes can mount it at once.
    type: int
  log_size:
    description: Log of one node, such as C(32M).
    type: str
author:
  - Tessera contributors
'''

EXAMPLES = r'''
- name: File system home
  tessera.cluster.filesystem:
    name: home
    disks:
      - iscsi://192.0.2.10:3260/iqn.2026-11.com.example:san/1
      - iscsi://192.0.2.10:3260/iqn.2026-11.com.example:san/2
    log_slots: 16
'''

RETURN = r'''
filesystem:
  description: As C(tessera fs list) tells it; empty in check mode if it would be made.
  type: dict
  returned: always
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tessera.cluster.plugins.module_utils.cli import Cli

OPTIONS = (('block_size', '--block-size'), ('log_slots', '--log-slots'), ('log_size', '--log-size'))


def find(cli, name):
    for fs in cli.must('fs', 'list'):
        if fs['name'] == name:
            return fs
    return None


def on_disks(cli):
    return dict((d['url'], d) for d in cli.must('disk', 'list'))


def same_disks(module, cli, name, disks):
    have = on_disks(cli)
    its = sorted(u for u, d in have.items() if d.get('label') == 'tessera' and d.get('contents') == name)
    if its and its != sorted(disks):
        module.fail_json(msg='file system %s is on the disks %s, not on %s; correct the inventory, or choose another name' % (
            name, ', '.join(its), ', '.join(sorted(disks))))


def refuse_foreign(module, cli, disks):
    have = on_disks(cli)
    for url in disks:
        d = have.get(url)
        if d is None:
            module.fail_json(msg='disk %s: this node does not have it; name it in tessera_disks' % url)
        if d['state'] != 'open':
            module.fail_json(msg='disk %s: %s; it must be reachable before a file system is made' % (url, d.get('error', d['state'])))
        if d.get('label') != 'blank':
            module.fail_json(msg='disk %s: carries %s; nothing is overwritten here. If it may be lost: tessera fs create --force' % (
                url, d.get('contents') or d.get('label')))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            name=dict(type='str', required=True),
            disks=dict(type='list', elements='str', required=True),
            block_size=dict(type='str'),
            log_slots=dict(type='int'),
            log_size=dict(type='str'),
        ),
        supports_check_mode=True,
    )
    cli = Cli(module)
    p = module.params
    if not p['disks']:
        module.fail_json(msg='file system %s: no disks' % p['name'])
    fs = find(cli, p['name'])
    if fs:
        same_disks(module, cli, p['name'], p['disks'])
        module.exit_json(changed=False, filesystem=fs)
    refuse_foreign(module, cli, p['disks'])
    after = dict((k, p[k]) for k, unused in OPTIONS if p[k] is not None)
    after.update(name=p['name'], disks=p['disks'])
    diff = dict(before={}, after=after, before_header='no file system', after_header='tessera fs create')
    if module.check_mode:
        module.exit_json(changed=True, filesystem={}, diff=diff)
    args = ['fs', 'create']
    for key, option in OPTIONS:
        if p[key] is not None:
            args += [option, str(p[key])]
    cli.must(*(args + ['--', p['name']] + p['disks']))
    module.exit_json(changed=True, filesystem=find(cli, p['name']) or {}, diff=diff)


if __name__ == '__main__':
    main()
