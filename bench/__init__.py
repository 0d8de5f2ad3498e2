"""What mailgw costs beside nginx, Dovecot and Perdition: C{bench/run} measures it, C{bench/README.md} tells how."""
