"""Talks to registries by the OCI distribution protocol (spec v1.1), with Docker's media types too.

Law: this room takes and returns bytes.  It uses no store, no terminal and no environment variable.

    options.py      hosts, time limits, retries     credentials.py  user names and passwords
    challenge.py    WWW-Authenticate                replies.py      headers and error bodies
    tls.py          trusted certificates            authorize.py    tokens, Basic
    urls.py         redirect and link targets       head.py         limits of an answer's head
    transport.py    reads from sockets, proxies     body.py         limits of an answer's body
    retries.py      when to try again               connection.py   one request and its answer
    client.py       Registry: manifests, tags, referrers, blobs
    download.py     blobs, resumed                  upload.py       blobs, resumed

Other rooms import `client`.  It loads httpx and trio, so they import it only where they use it.
"""
