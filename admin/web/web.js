// SPDX-License-Identifier: Apache-2.0
// Draws what /web.json says, every two seconds. All text goes in by textContent: nothing that comes from a disk, a mount or a message is ever markup.
"use strict";
(() => {
	const SVG = "http://www.w3.org/2000/svg", EVERY_MS = 2000, SOON_MS = 300;
	let before = null;

	const at = (id) => document.getElementById(id);
	const word = (x) => (x === undefined || x === null ? "" : Array.isArray(x) ? x.join(", ") : String(x));
	const list = (x) => (Array.isArray(x) ? x : []);
	const ranks = ["ok", "info", "warning", "error", "critical"];

	function el(tag, text, cls) {
		const e = document.createElement(tag);
		if (text !== undefined) e.textContent = word(text);
		if (cls) e.className = cls;
		return e;
	}
	function svg(tag, attrs, text) {
		const e = document.createElementNS(SVG, tag);
		for (const k of Object.keys(attrs)) e.setAttribute(k, attrs[k]);
		if (text !== undefined) e.textContent = word(text);
		return e;
	}
	function bytes(n) {
		const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
		let i = 0;
		for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
		return (i && n < 100 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
	}
	const rate = (x) => (x === null ? "" : x < 10 ? x.toFixed(1) : String(Math.round(x)));
	const cut = (s, n) => (s.length > n ? "…" + s.slice(s.length - n + 1) : s);
	function since(ms) {
		return ms < 10000 ? (ms / 1000).toFixed(1) + " s" : ms < 600000 ? Math.round(ms / 1000) + " s" : ms < 36000000 ? Math.round(ms / 60000) + " min" : Math.round(ms / 3600000) + " h";
	}

	// cols: [title, row -> text, numeric?, row -> class]
	function table(id, rows, cols, none) {
		const box = at(id);
		if (!rows.length) {
			box.replaceChildren(el("p", none, "info"));
			return;
		}
		const t = el("table"), head = el("tr");
		for (const c of cols) head.append(el("th", c[0], c[2] ? "n" : ""));
		t.append(head);
		for (const r of rows) {
			const tr = el("tr");
			for (const c of cols) {
				const v = c[1](r), td = el("td", v instanceof Node ? undefined : v, (c[2] ? "n " : "") + (c[3] ? c[3](r) : ""));
				if (v instanceof Node) td.append(v);
				tr.append(td);
			}
			t.append(tr);
		}
		box.replaceChildren(t);
	}

	// Of two looks at one node: change of a counter in a second, or null.
	function speed(now, old, get) {
		if (!now || !old || now.time_us <= old.time_us) return null;
		const a = get(now), b = get(old);
		return a === undefined || b === undefined || a < b ? null : (a - b) / ((now.time_us - old.time_us) / 1e6);
	}
	const counters = (d, node) => d && list(d.counters).find((c) => c.node === node);
	const of_fs = (name, key) => (c) => (list(c.mounts).find((m) => m.name === name) || {})[key];
	const of_disk = (url, key) => (c) => (list(c.disks).find((k) => k.url === url) || {})[key];
	const sum = (d, get) => list(d.nodes).reduce((s, n) => s + (speed(counters(d, n.node), counters(before, n.node), get) || 0), 0);

	function worst(d, node) {
		const h = list(d.health).find((x) => x.node === node);
		return h ? h.worst : "away";
	}

	function draw(d) {
		const map = at("map"), w = Math.max(map.clientWidth, 600), nodes = list(d.nodes), disks = list(d.disks).slice(0, 24);
		const x = (i, n) => ((i + 0.5) * w) / n, parts = [], boxes = [];
		map.setAttribute("viewBox", "0 0 " + w + " 300");
		nodes.forEach((n, i) => {
			const nx = x(i, nodes.length), cls = n.state === "ready" ? worst(d, n.node) : "away", half = Math.min(80, w / nodes.length / 2 - 6);
			disks.forEach((k, j) => {
				const get = (c) => of_disk(k.url, "read_bytes")(c) + of_disk(k.url, "write_bytes")(c);
				const s = speed(counters(d, n.node), counters(before, n.node), get), open = counters(d, n.node) && get(counters(d, n.node)) >= 0;
				if (open) parts.push(svg("line", { x1: nx, y1: 96, x2: x(j, disks.length), y2: 216, class: s > 1024 ? "busy" : "", "stroke-width": s > 1024 ? Math.min(6, 1 + Math.log10(s / 1024)) : 1 }));
			});
			boxes.push(svg("rect", { x: nx - half, y: 24, width: 2 * half, height: 72, rx: 7, class: cls }), svg("text", { x: nx, y: 46 }, "node " + n.node + (n.node === d.node ? " (this)" : "")),
				svg("text", { x: nx, y: 64, class: "dim" }, n.state), svg("text", { x: nx, y: 82, class: "dim" }, cut(word(n.mounts) || "nothing mounted", 24)));
		});
		disks.forEach((k, j) => {
			const dx = x(j, disks.length), half = Math.min(130, w / disks.length / 2 - 6);
			boxes.push(svg("rect", { x: dx - half, y: 216, width: 2 * half, height: 60, rx: 7, class: k.state === "open" ? "ok" : "error" }), svg("text", { x: dx, y: 238 }, cut(k.url, Math.floor(half / 3.6))),
				svg("text", { x: dx, y: 256, class: "dim" }, (k.contents || k.label || k.state) + (k.size_bytes ? ", " + bytes(k.size_bytes) : "")));
		});
		map.replaceChildren(...parts, ...boxes);
	}

	function health(d) {
		const rows = [];
		for (const h of list(d.health)) for (const c of list(h.conditions)) rows.push([h.node, c]);
		rows.sort((a, b) => ranks.indexOf(b[1].severity) - ranks.indexOf(a[1].severity));
		const box = at("health"), out = [];
		for (const [node, c] of rows.slice(0, 40)) {
			const p = el("p");
			p.append(el("b", c.severity + " " + c.condition, c.severity), document.createTextNode(" node " + node + ", " + c.object + ": " + c.detail + ", since " + since(c.age_ms)));
			out.push(p, el("p", c.todo, "todo"));
		}
		box.replaceChildren(...(out.length ? out : [el("p", "nothing is wrong", "ok")]));
	}

	function bar(used, all) {
		const e = document.createElement("progress");
		e.max = all || 1;
		e.value = used || 0;
		return e;
	}

	function show(d) {
		d.nodes = list(d.nodes); // and those of corosync's list that are not there
		for (const n of list((d.quorum || {}).missing))
			if (!d.nodes.some((x) => x.node === n)) d.nodes.push({ node: n, state: "away", mounts: [] });
		d.nodes.sort((a, b) => a.node - b.node);
		at("cluster").textContent = "Tessera: " + d.cluster;
		document.title = d.cluster + " - Tessera";
		at("state").textContent = "node " + d.node + " is " + d.state;
		at("state").className = d.state === "ready" ? "ok" : "error";
		const q = d.quorum || {};
		at("quorum").textContent = (q.quorate ? "quorate" : "NOT QUORATE") + ", view " + q.view + ", " + q.daemons + " daemons" + (list(q.missing).length ? ", missing: " + word(q.missing) : "");
		at("quorum").className = q.quorate ? "ok" : "critical";
		draw(d);
		health(d);
		table("fs", list(d.fs), [
			["name", (f) => f.name], ["mounted on", (f) => f.mounted_on],
			["used", (f) => { const s = list(d.space).find((x) => x.name === f.name); return s ? bar(s.used_bytes, s.size_bytes) : bytes(f.size_bytes); }],
			["ops/s", (f) => rate(sum(d, of_fs(f.name, "requests"))), true],
			["read/s", (f) => bytes(sum(d, of_fs(f.name, "read_bytes"))), true], ["written/s", (f) => bytes(sum(d, of_fs(f.name, "write_bytes"))), true],
			["token waits/s", (f) => rate(sum(d, of_fs(f.name, "token_waits"))), true], ["revokes/s", (f) => rate(sum(d, of_fs(f.name, "revokes"))), true],
		], "no file system");
		table("nodes", list(d.nodes), [
			["node", (n) => n.node], ["state", (n) => n.state, false, (n) => (n.state === "ready" ? "ok" : "away")], ["version", (n) => n.version], ["up", (n) => (n.uptime_ms ? since(n.uptime_ms) : "")],
			["clock ms", (n) => n.clock_ms, true], ["ops/s", (n) => rate(list((counters(d, n.node) || {}).mounts).reduce((s, m) => s + (speed(counters(d, n.node), counters(before, n.node), of_fs(m.name, "requests")) || 0), 0)), true],
			["net out/s", (n) => { const s = speed(counters(d, n.node), counters(before, n.node), (c) => c.net.bytes_sent); return s === null ? "" : bytes(s); }, true], ["mounts", (n) => n.mounts],
		], "no node");
		table("disks", list(d.disks), [
			["disk", (k) => cut(k.url, 60)], ["state", (k) => k.state, false, (k) => (k.state === "open" ? "ok" : "error")], ["contents", (k) => k.contents || k.error], ["fencing", (k) => k.fencing],
			["read/s", (k) => bytes(sum(d, of_disk(k.url, "read_bytes"))), true], ["written/s", (k) => bytes(sum(d, of_disk(k.url, "write_bytes"))), true],
		], "no disk");
		table("waiters", list(d.waiters).filter((x) => x.pid), [["who", (x) => x.who + " by process " + x.pid], ["inode", (x) => x.ino], ["of", (x) => x.fs], ["waits for", (x) => x.waits_for], ["since", (x) => since(x.since_ms)], ["because", (x) => x.because]], "no operation waits");
		table("tokens", list(d.tokens), [["file system", (t) => t.fs], ["kind", (t) => t.kind], ["number", (t) => t.id, true], ["node", (t) => t.node], ["mode", (t) => t.mode], ["waiting", (t) => (t.waiting ? "waits" : t.revoking ? "is asked for it" : "")]], "no token is held or decided about here");
		table("locks", list(d.locks), [["lock on inode", (t) => t.id, true], ["of", (t) => t.fs], ["node", (t) => t.node], ["process", (t) => t.pid], ["kind", (t) => t.kind + " " + t.type], ["waiting", (t) => (t.waiting ? "waits" : "holds")]], "no fcntl or flock lock");
		table("events", list((d.events || {}).events).slice().reverse(), [["when", (e) => new Date(e.time_ms).toLocaleString()], ["event", (e) => e.event, false, (e) => e.severity], ["object", (e) => e.object], ["", (e) => e.text]], "none yet");
		at("age").textContent = "as of " + new Date(d.time_ms).toLocaleTimeString();
	}

	async function look() {
		let next = EVERY_MS;
		try {
			const r = await fetch("web.json", { cache: "no-store" });
			if (!r.ok) throw new Error("status " + r.status);
			const d = await r.json();
			if (d.collecting) next = SOON_MS;
			else if (!before || d.time_ms !== before.time_ms) {
				show(d);
				before = d;
			}
		} catch (e) {
			at("age").textContent = "this node's daemon does not answer (" + e.message + ")";
		}
		setTimeout(look, next);
	}
	look();
})();
