package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"sort"
	"sync/atomic"
	"time"
)

// quantiles puts the middle and the tail of some times in seconds, as milliseconds.
func quantiles(parts [][]float64, out result) {
	var all []float64
	for _, part := range parts {
		all = append(all, part...)
	}
	if len(all) == 0 {
		return
	}
	sort.Float64s(all)
	q := func(p float64) float64 { return all[int(p*float64(len(all)-1))] * 1e3 }
	out["p50_ms"], out["p90_ms"], out["p99_ms"], out["max_ms"] = q(.5), q(.9), q(.99), q(1)
}

// enter opens a connection and logs in.
func enter(cfg *tls.Config, worker int, small bool) *client {
	c, err := dial(cfg, worker, small)
	if err != nil {
		fail(err)
		return nil
	}
	if err := c.login(c, nextUser()); err != nil {
		fail(err)
		c.c.Close()
		return nil
	}
	return c
}

func runLogin(out result) {
	cfgs := configs()
	latencies := make([][]float64, *conc)
	storm := func(n int) {
		spread(n, func(w, _ int) {
			began := time.Now()
			c := enter(cfgs[w], w, true)
			if c == nil {
				return
			}
			latencies[w] = append(latencies[w], time.Since(began).Seconds())
			if err := c.logout(c); err != nil {
				fail(err)
			}
			c.c.Close()
		})
	}
	storm(*warm)
	resumed, latencies = 0, make([][]float64, *conc)
	m := startMeter()
	storm(*count)
	m.finish(out, float64(*count))
	quantiles(latencies, out)
}

// sessions opens -c logged-in sessions.
func sessions() []*client {
	cfgs := configs()
	cs := make([]*client, *conc)
	each(func(w int) {
		if c := enter(cfgs[w], w, false); c != nil {
			c.c.SetDeadline(time.Now().Add(10 * time.Minute))
			cs[w] = c
		}
	})
	return cs
}

// repeat does something n times on each session.
func repeat(cs []*client, n int, do func(w int, c *client) error) {
	each(func(w int) {
		for i := 0; i < n && cs[w] != nil; i++ {
			if err := do(w, cs[w]); err != nil {
				fail(err)
				return
			}
		}
	})
}

func hangUp(cs []*client) {
	for _, c := range cs {
		if c != nil {
			c.c.Close()
		}
	}
}

func runTransfer(out result, one func(*client) (int64, error)) {
	cs := sessions()
	defer hangUp(cs)
	var bytes int64
	transfer := func(_ int, c *client) error {
		n, err := one(c)
		atomic.AddInt64(&bytes, n)
		return err
	}
	repeat(cs, *warm, transfer)
	bytes = 0
	m := startMeter()
	repeat(cs, *count, transfer)
	m.finish(out, float64(bytes)/1e9)
	out["mb_per_s"] = out["units_per_s"].(float64) * 1000
}

func runChat(out result) {
	cs := sessions()
	defer hangUp(cs)
	latencies := make([][]float64, *conc)
	ask := func(w int, c *client) error {
		began := time.Now()
		err := c.noop(c)
		latencies[w] = append(latencies[w], time.Since(began).Seconds())
		return err
	}
	repeat(cs, *warm, ask)
	for w := range latencies {
		latencies[w] = make([]float64, 0, *count)
	}
	m := startMeter()
	repeat(cs, *count, ask)
	m.finish(out, float64(*count**conc))
	quantiles(latencies, out)
}

func runIdle(out result) {
	cfg := config(nil)
	open := func(n int) []*client {
		cs := make([]*client, n)
		spread(n, func(_, i int) {
			if c := enter(cfg, i, true); c != nil {
				c.c.SetDeadline(time.Time{})
				cs[i] = c
			}
		})
		return cs
	}
	// what a server takes once, however many sessions come, it has taken before the measured ones
	hangUp(open(*warm))
	if *warm > 0 {
		time.Sleep(*settle)
	}
	before, _ := memory()
	m := startMeter()
	cs := open(*count)
	defer hangUp(cs)
	m.finish(out, float64(*count))
	time.Sleep(*settle)
	after, n := memory()
	alive := int64(0)
	for _, c := range cs {
		if c != nil {
			alive++
		}
	}
	out["sessions_open"], out["processes"] = alive, n
	out["pss_before_kib"], out["pss_after_kib"] = before, after
	if alive > 0 {
		out["pss_kib_per_session"] = (after - before) / float64(alive)
	}
	wait(out)
	if *verify {
		out["alive"] = countAlive(cs)
	}
}

// wait keeps the sessions as long as it was asked to.
func wait(out result) {
	m := startMeter()
	time.Sleep(*hold)
	if *untilEOF {
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
	}
	if *hold > 0 {
		out["idle_cpu_percent"] = sample().minus(m.before).total / time.Since(m.began).Seconds() * 100
	}
}

// countAlive asks each session for a NOOP.
func countAlive(cs []*client) (alive int64) {
	spread(len(cs), func(_, i int) {
		c := cs[i]
		if c == nil {
			return
		}
		c.c.SetDeadline(time.Now().Add(*timeout))
		if err := c.noop(c); err != nil {
			fail(fmt.Errorf("idle session %d: %w", i, err))
			return
		}
		atomic.AddInt64(&alive, 1)
	})
	return alive
}
