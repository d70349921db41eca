# SPDX-License-Identifier: Apache-2.0
"""The command `tessera --json` of the node a module runs on. Nothing else is asked: no socket, no file of the daemon's."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import time

POLL_SECONDS = 0.3
NO_DAEMON = 3  # the command's status when no daemon answers


class Cli(object):
    def __init__(self, module):
        self.module = module
        self.path = module.get_bin_path('tessera', required=True)

    def ask(self, *args):
        """(status, data or None, error text)"""
        rc, out, err = self.module.run_command([self.path, '--json'] + list(args))
        data = None
        if out.strip():
            try:
                data = json.loads(out)
            except ValueError:
                self.module.fail_json(msg='tessera %s: the answer is no JSON: %s' % (' '.join(args), out[:200]))
        return rc, data, err.strip().replace('tessera: ', '', 1)

    def must(self, *args):
        rc, data, err = self.ask(*args)
        if rc:
            self.module.fail_json(msg=err or 'tessera %s: status %d' % (' '.join(args), rc), rc=rc)
        return data

    def wait(self, seconds, look):
        """Until look() returns (True, value), or the value of the last look when the time is over."""
        until = time.time() + seconds
        while True:
            done, value = look()
            if done or time.time() >= until:
                return done, value
            time.sleep(POLL_SECONDS)
