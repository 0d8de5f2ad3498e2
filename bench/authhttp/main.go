// authhttp is the tiny auth_http server that nginx's mail module needs and that mailgw can ask too: it accepts
// everyone but the password "wrong", and answers one backend, with a port for each protocol.
package main

import (
	"flag"
	"log"
	"net/http"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:11180", "address")
	host := flag.String("host", "127.0.0.1", "backend address")
	imap := flag.String("imap", "11143", "the backend's port for IMAP")
	pop3 := flag.String("pop3", "11110", "the backend's port for POP3")
	smtp := flag.String("smtp", "11025", "the backend's port for SMTP")
	flag.Parse()
	ports := map[string][]string{"imap": {*imap}, "pop3": {*pop3}, "smtp": {*smtp}, "submission": {*smtp}}
	answer := func(w http.ResponseWriter, r *http.Request) {
		h := w.Header() // its keys are written as nginx's documentation writes them
		port, known := ports[r.Header.Get("Auth-Protocol")]
		if !known || r.Header.Get("Auth-Pass") == "wrong" {
			h["Auth-Status"] = []string{"Invalid login or password"}
			return
		}
		h["Auth-Status"] = []string{"OK"}
		h["Auth-Server"] = []string{*host}
		h["Auth-Port"] = port
	}
	log.Fatal(http.ListenAndServe(*addr, http.HandlerFunc(answer)))
}
