#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r'''
---
module: mount
short_description: Mounts a Tessera file system on a node, now and at boot
options:
  name:
    description: Name of the file system.
    type: str
    required: true
  path:
    description: Where. An absolute path without blanks.
    type: path
    required: true
  options:
    description: Mount options; C(_netdev) is added, so that the boot waits for the network.
    type: str
    default: defaults
  state:
    description:
      - C(mounted) has a line in fstab and is mounted, C(unmounted) is not mounted and keeps its line, C(absent) is neither.
      - A mount that is in use is not taken away; the module fails and says so.
    type: str
    choices: [mounted, unmounted, absent]
    default: mounted
  fstab:
    description: The table.
    type: path
    default: /etc/fstab
  timeout:
    description: How long to wait for a node that is not ready yet, in seconds.
    type: int
    default: 60
author:
  - Tessera contributors
'''

EXAMPLES = r'''
- name: Home
  tessera.cluster.mount:
    name: home
    path: /home
    options: noatime,nosuid
'''

RETURN = r'''
mounted:
  description: Whether it is mounted now.
  type: bool
  returned: always
'''

import errno
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tessera.cluster.plugins.module_utils.cli import Cli, NO_DAEMON


def fstab_change(text, path, line):
    """The table with this line for the path (None: without one); other lines stay as they are, byte for byte."""
    out, done = [], False
    for old in text.splitlines(True):
        fields = old.split()
        if len(fields) >= 3 and not old.lstrip().startswith('#') and fields[1] == path and fields[2] == 'tessera':
            if line and not done:
                out.append(old if fields == line.split() else line + '\n')
                done = True
            continue
        if line and not done and len(fields) >= 2 and not old.lstrip().startswith('#') and fields[1] == path:
            raise ValueError('%s has %s for %s; take that line away first' % ('fstab', fields[0], path))
        out.append(old)
    if line and not done:
        if out and not out[-1].endswith('\n'):
            out[-1] += '\n'
        out.append(line + '\n')
    return ''.join(out)


def write(module, path, text):
    tmp = os.path.join(os.path.dirname(path), '.%s.tessera' % os.path.basename(path))
    with open(tmp, 'w') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    module.atomic_move(tmp, path)
    if os.path.isdir('/run/systemd/system'):  # it makes units of the table
        module.run_command(['systemctl', 'daemon-reload'], check_rc=True)


def live(module, cli, name, path):
    rc, status, err = cli.ask('status')
    if rc == NO_DAEMON:
        return False
    if rc:
        module.fail_json(msg=err)
    for m in status.get('mounts', []):
        if m['dir'] == path and m['name'] == name:
            return True
        if m['dir'] == path:
            module.fail_json(msg='%s: file system %s is mounted there; unmount it first' % (path, m['name']))
        if m['name'] == name:
            module.fail_json(msg='file system %s is mounted at %s; unmount it there first' % (name, m['dir']))
    return False


def main():
    module = AnsibleModule(
        argument_spec=dict(
            name=dict(type='str', required=True),
            path=dict(type='path', required=True),
            options=dict(type='str', default='defaults'),
            state=dict(type='str', choices=['mounted', 'unmounted', 'absent'], default='mounted'),
            fstab=dict(type='path', default='/etc/fstab'),
            timeout=dict(type='int', default=60),
        ),
        supports_check_mode=True,
    )
    p = module.params
    path = os.path.normpath(p['path'])
    if not path.startswith('/') or path == '/' or len(path.split()) != 1:
        module.fail_json(msg='path %s: must be absolute, not /, and without blanks' % p['path'])
    cli = Cli(module)
    options = [o for o in p['options'].split(',') if o and o != 'defaults']
    if '_netdev' not in options:
        options.append('_netdev')
    # Explicit, beside what systemd adds itself: that depends on what it took the mount for when it last looked.
    table = options + [o for o in ('x-systemd.after=remote-fs-pre.target',) if o not in options]
    line = 'tessera:%s %s tessera %s 0 0' % (p['name'], path, ','.join(table))
    before = ''
    if os.path.exists(p['fstab']):
        with open(p['fstab']) as f:
            before = f.read()
    try:
        after = before if p['state'] == 'unmounted' else fstab_change(before, path, line if p['state'] == 'mounted' else None)
    except ValueError as e:
        module.fail_json(msg=str(e))
    want = p['state'] == 'mounted'
    have = live(module, cli, p['name'], path)
    changed = after != before or want != have
    diff = [dict(before=before, after=after, before_header=p['fstab'], after_header=p['fstab']),
            dict(before='%s\n' % ('mounted' if have else 'not mounted'), after='%s\n' % ('mounted' if want else 'not mounted'),
                 before_header=path, after_header=path)]
    if module.check_mode:
        module.exit_json(changed=changed, mounted=have, diff=diff)
    # A table without the line first: what is not mounted must not come back at the next start of the daemon.
    if after != before:
        write(module, p['fstab'], after)
    if want and not have:
        try:
            os.makedirs(path, 0o755)
        except OSError as e:  # it is there, or is the mount of a daemon that died
            if e.errno != errno.EEXIST:
                module.fail_json(msg='%s: %s' % (path, e.strerror))
        rc, out, err = module.run_command(['mount', '-t', 'tessera', '-o', ','.join(options + ['wait=%d' % max(1, p['timeout'])]), 'tessera:' + p['name'], path])
        if rc and not live(module, cli, p['name'], path):
            module.fail_json(msg=(err or out).strip(), rc=rc)
    if have and not want:
        cli.must('umount', path)
    module.exit_json(changed=changed, mounted=want, diff=diff)


if __name__ == '__main__':
    main()
