"""Law: the client of the OCI distribution protocol (spec v1.1) and of Docker's media types.

Bytes in, bytes out: nothing here knows a store, a terminal or the environment.

    options.py      which hosts, how patient        credentials.py  who we are, from whose file
    challenge.py    WWW-Authenticate                replies.py      headers and error bodies
    tls.py          whom we believe                 authorize.py    tokens, Basic
    urls.py         where we are sent               head.py         the head of an answer, bounded
    connection.py   one request: auth, redirects, refusals; and patience for several
    client.py       Registry: manifests, tags, referrers
    download.py     blobs, resumed                  upload.py       blobs, resumed

`client` is what others import; it loads httpx and trio, so it is imported where it is used.
"""
