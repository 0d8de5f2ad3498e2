// load makes the load for measuring mail gateways: many clients of IMAP, POP3 or SMTP submission.
//
// Modes (-mode):
//
//	login  connect, TLS (see -tls), log in, do one small thing, log out; -n sessions, -c at a time
//	bulk   -c sessions, each FETCHes -kib KiB, -n times  (download, IMAP)
//	append -c sessions, each APPENDs -kib KiB, -n times  (upload, IMAP)
//	chat   -c sessions, each sends -n NOOPs, one at a time; latency of each
//	idle   opens -n sessions (-c at a time), waits -settle, samples the memory of the server, keeps them for -hold (or
//	       with -until-eof until its input ends, saying "ready" before), and sees whether each still answers
//
// -tls is none, implicit or starttls. -resume keeps one TLS session cache per client; the number of really resumed
// handshakes is printed. -warm does some of the same before measuring.
//
// The cost of the server is sampled around the measured part only: -cg names its control group (cpuacct of version 1,
// or version 2: exact, and covers processes that have ended), -pids names root processes whose trees are summed from
// /proc/PID/stat (in ticks of 10 ms).
//
// It prints one line of JSON, and ends with 1 if anything failed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var (
	mode     = flag.String("mode", "login", "login|bulk|append|chat|idle")
	protocol = flag.String("protocol", "imap", "imap|pop3|smtp")
	addr     = flag.String("addr", "127.0.0.1:1993", "host:port")
	tlsMode  = flag.String("tls", "implicit", "none|implicit|starttls")
	name     = flag.String("name", "localhost", "server name to ask for (SNI)")
	resume   = flag.Bool("resume", false, "resume TLS sessions")
	maxVer   = flag.String("tlsmax", "1.3", "1.2|1.3")
	cipher   = flag.String("cipher", "", "TLS 1.2 suite name (Go)")
	conc     = flag.Int("c", 8, "concurrency")
	count    = flag.Int("n", 1000, "sessions (login, idle) or operations per session")
	kib      = flag.Int("kib", 51200, "size of a message in KiB")
	users    = flag.Int("users", 200, "log in as so many users in turn, user0001@example.com and so on")
	pass     = flag.String("pass", "secret", "password")
	cgroup   = flag.String("cg", "", "control group of the server")
	pids     = flag.String("pids", "", "root PIDs of the server, comma separated")
	hold     = flag.Duration("hold", 0, "idle: keep sessions this long")
	untilEOF = flag.Bool("until-eof", false, "idle: keep sessions until the input ends")
	settle   = flag.Duration("settle", 2*time.Second, "idle: wait before sampling memory")
	verify   = flag.Bool("verify", true, "idle: NOOP on each session at the end")
	procs    = flag.Int("procs", 2, "GOMAXPROCS")
	timeout  = flag.Duration("timeout", 60*time.Second, "per operation")
	warm     = flag.Int("warm", 0, "sessions (login, idle) or operations to do before measuring")
)

type result map[string]interface{}

var (
	resumed, failed, turn int64
	firstErr              atomic.Value
)

func fail(err error) {
	atomic.AddInt64(&failed, 1)
	firstErr.CompareAndSwap(nil, err.Error())
}

// nextUser gives the users in turn.
func nextUser() string {
	return fmt.Sprintf("user%04d@example.com", 1+int(atomic.AddInt64(&turn, 1)-1)%*users)
}

// each runs f(worker) on -c goroutines and waits for them.
func each(f func(w int)) {
	var wg sync.WaitGroup
	for w := 0; w < *conc; w++ {
		wg.Add(1)
		go func(w int) { defer wg.Done(); f(w) }(w)
	}
	wg.Wait()
}

// spread runs f(worker, 0..n-1), each number once, on -c goroutines.
func spread(n int, f func(w, i int)) {
	next := int64(-1)
	each(func(w int) {
		for {
			i := int(atomic.AddInt64(&next, 1))
			if i >= n {
				return
			}
			f(w, i)
		}
	})
}

func main() {
	flag.Parse()
	runtime.GOMAXPROCS(*procs)
	run := map[string]func(result){
		"login":  runLogin,
		"bulk":   func(out result) { runTransfer(out, (*client).fetch) },
		"append": func(out result) { runTransfer(out, (*client).upload) },
		"chat":   runChat,
		"idle":   runIdle,
	}[*mode]
	if _, known := dialogues[*protocol]; run == nil || !known {
		fmt.Fprintln(os.Stderr, "load: no such mode or protocol")
		os.Exit(2)
	}
	out := result{"mode": *mode, "protocol": *protocol, "tls": *tlsMode, "c": *conc, "n": *count}
	run(out)
	out["failed"], out["resumed"] = failed, resumed
	if e := firstErr.Load(); e != nil {
		out["error"] = e
	}
	if seen := handshake.Load(); seen != nil {
		out["handshake"] = seen
	}
	line, err := json.Marshal(out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	fmt.Println(string(line))
	if failed > 0 {
		os.Exit(1)
	}
}
