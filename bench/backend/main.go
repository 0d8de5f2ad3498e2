// backend is a trivially fast mail server for measuring what stands in front of it: IMAP, POP3 and SMTP submission,
// each on a port of its own, without TLS.
//
//	backend -imap 127.0.0.1:11143 -pop3 127.0.0.1:11110 -smtp 127.0.0.1:11025
//
// It keeps nothing. Every user and password is accepted, except the password "wrong".
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"runtime"
	"strings"
)

// session is one connection, whatever it speaks.
type session struct {
	c net.Conn
	r *bufio.Reader
}

// put sends text.
func (s *session) put(parts ...string) error {
	_, err := io.WriteString(s.c, strings.Join(parts, ""))
	return err
}

// line reads one line and gives it without its end.
func (s *session) line() (string, error) {
	text, err := s.r.ReadString('\n')
	return strings.TrimRight(text, "\r\n"), err
}

// listen answers on an address with one of the protocols.
func listen(addr string, serve func(*session) error) {
	if addr == "" {
		return
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Print(err)
				continue
			}
			go func() {
				defer c.Close()
				serve(&session{c: c, r: bufio.NewReaderSize(c, 4096)})
			}()
		}
	}()
}

func main() {
	imap := flag.String("imap", "", "address for IMAP")
	pop3 := flag.String("pop3", "", "address for POP3")
	smtp := flag.String("smtp", "", "address for SMTP")
	procs := flag.Int("procs", 2, "GOMAXPROCS")
	flag.Parse()
	runtime.GOMAXPROCS(*procs)
	listen(*imap, serveImap)
	listen(*pop3, servePop3)
	listen(*smtp, serveSmtp)
	select {}
}
