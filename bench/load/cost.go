package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What the server costs: CPU seconds and memory, of all its processes.

type cost struct{ user, sys, total float64 } // seconds

func readFloat(path string) float64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	f, _ := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return f
}

// statFields gives the fields of /proc/PID/stat after the command name
// (so [0] is the state, [1] the parent, [11..14] utime stime cutime cstime).
func statFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

// children maps each PID to its live children.
func children() map[int][]int {
	m := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range stats {
		if f := statFields(p); f != nil {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			ppid, _ := strconv.Atoi(f[1])
			m[ppid] = append(m[ppid], pid)
		}
	}
	return m
}

func serverPids() (out []int) {
	if *cgroup != "" {
		b, _ := os.ReadFile(filepath.Join(*cgroup, "cgroup.procs"))
		for _, w := range strings.Fields(string(b)) {
			p, _ := strconv.Atoi(w)
			out = append(out, p)
		}
		return out
	}
	kids := children()
	var walk func(int)
	walk = func(p int) {
		out = append(out, p)
		for _, k := range kids[p] {
			walk(k)
		}
	}
	for _, w := range strings.Split(*pids, ",") {
		if p, err := strconv.Atoi(w); err == nil {
			walk(p)
		}
	}
	return out
}

// sample gives what the server has cost up to now.
func sample() (c cost) {
	if *cgroup == "" {
		return sampleTrees()
	}
	if b, err := os.ReadFile(filepath.Join(*cgroup, "cpu.stat")); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			var name string
			var usec float64
			if n, _ := fmt.Sscan(l, &name, &usec); n == 2 {
				switch name {
				case "usage_usec":
					c.total = usec / 1e6
				case "user_usec":
					c.user = usec / 1e6
				case "system_usec":
					c.sys = usec / 1e6
				}
			}
		}
		return c
	}
	// usage is exact; usage_user and usage_sys are only sampled at ticks and serve to split it
	return cost{readFloat(filepath.Join(*cgroup, "cpuacct.usage_user")) / 1e9,
		readFloat(filepath.Join(*cgroup, "cpuacct.usage_sys")) / 1e9,
		readFloat(filepath.Join(*cgroup, "cpuacct.usage")) / 1e9}
}

func sampleTrees() (c cost) {
	for _, p := range serverPids() {
		f := statFields(fmt.Sprintf("/proc/%d/stat", p))
		if len(f) < 15 {
			continue
		}
		for i, part := range []*float64{&c.user, &c.sys, &c.user, &c.sys} {
			ticks, _ := strconv.ParseFloat(f[11+i], 64)
			*part += ticks / 100
			c.total += ticks / 100
		}
	}
	return c
}

func (a cost) minus(b cost) cost {
	d := cost{a.user - b.user, a.sys - b.sys, a.total - b.total}
	if ticks := d.user + d.sys; ticks > 0 {
		d.user, d.sys = d.total*d.user/ticks, d.total*d.sys/ticks
	}
	return d
}

// memory sums Pss (KiB) over all processes of the server and counts them.
func memory() (pss float64, n int) {
	for _, p := range serverPids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue
		}
		n++
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
				v, _ := strconv.ParseFloat(f[1], 64)
				pss += v
			}
		}
	}
	return pss, n
}

// meter measures from its making to finish.
type meter struct {
	before cost
	began  time.Time
}

func startMeter() meter { return meter{quiet(), time.Now()} }

// quiet waits until the server has nothing left to do, and samples: to end a session is part of its cost too, and a
// server that forks does most of it after its client has gone.
func quiet() cost {
	now := sample()
	for i := 0; i < 40; i++ {
		time.Sleep(25 * time.Millisecond)
		before := now
		if now = sample(); now.total-before.total < 0.0005 {
			break
		}
	}
	return now
}

func (m meter) finish(out result, units float64) {
	wall := time.Since(m.began).Seconds()
	used := quiet().minus(m.before)
	out["wall_s"], out["units"], out["units_per_s"] = wall, units, units/wall
	out["cpu_user_s"], out["cpu_sys_s"], out["cpu_s"] = used.user, used.sys, used.total
	out["cpu_ms_per_unit"] = 0.0
	if units > 0 {
		out["cpu_ms_per_unit"] = used.total * 1e3 / units
	}
}
