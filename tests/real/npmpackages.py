"""One script of what npm does with packages, and npm itself.

Law: npm's tarball ($NPM) is kept for later sessions and checked by its digest.  The script makes
its own packages, and a registry on the loopback device from which it installs them: 16 packages in
three versions, with ranges that contradict each other, so that node_modules nests.  With LOADS over
1, npm installs itself too.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from debianbase import kept_files

REGISTRY = "https://registry.npmjs.org"
VERSION = "10.9.2"
SHA512 = (
    "8ab88f10f224a0c614cb717a7f7c30499014f77134120e9c1f0211ea3cf33975"
    "92cbe483feb38e0c4b3be1c54e347292c76a1b5edb94a3289d5448484ab8ac81"
)


def npm_tarball() -> Path:
    """Downloads npm once.  Raises AssertionError if the registry gives another tarball."""
    kept = kept_files() / f"npm-{VERSION}.tgz"
    if not kept.exists() or _digest(kept) != SHA512:
        address = f"{REGISTRY}/npm/-/{kept.name}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            new = kept.with_suffix(f".{os.getpid()}")
            new.write_bytes(answer.read())
        assert _digest(new) == SHA512, f"{address} is not what it was"
        new.rename(kept)
    return kept


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


NPM = r"""
tar -xzf "$NPM" && mv package cli
export npm_config_cache=$PWD/cache
export npm_config_userconfig=$PWD/user npm_config_globalconfig=$PWD/global
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
export npm_config_loglevel=silent npm_config_omit_lockfile_registry_resolved=true
export npm_config_fetch_retries=0
npm() { node ../cli/bin/npm-cli.js "$@"; }
cat > registry.js <<'JS'
// A registry of packages p0 ... p15, each in three versions; the tarballs are made as asked for.
const { createHash } = require('crypto'), { execFileSync } = require('child_process')
const fs = require('fs'), files = {}, documents = {}
function add(n, version) {
  const next = [2 * n + 1, 2 * n + 2].filter(m => m < 16), dir = `made/${n}-${version}/package`
  fs.mkdirSync(`${dir}/lib`, { recursive: true })
  const json = { name: `p${n}`, version, bin: { [`p${n}`]: 'bin.js' }, license: 'MIT',
    dependencies: Object.fromEntries(next.map(m => [`p${m}`, n % 3 ? '^1.0.0' : '^2.0.0'])),
    scripts: n % 4 ? {} : { postinstall: `node bin.js > installed-${n}` } }
  fs.writeFileSync(`${dir}/package.json`, JSON.stringify(json))
  fs.writeFileSync(`${dir}/bin.js`, `#!/usr/bin/env node\nconsole.log('p${n}', '${version}')\n`)
  for (let i = 0; i < 20; i++) fs.writeFileSync(`${dir}/lib/${i}.js`, `// ${i}\n`.repeat(i * n))
  const tar = ['--sort=name', '--mtime=@1400000000', '-c', '-C', `made/${n}-${version}`, 'package']
  const data = require('zlib').gzipSync(execFileSync('tar', tar))
  files[`/p${n}-${version}.tgz`] = data
  json.dist = { tarball: `HERE/p${n}-${version}.tgz`, integrity:
    'sha512-' + createHash('sha512').update(data).digest('base64') }
  const document = documents[`/p${n}`] ??= { name: `p${n}`, 'dist-tags': {}, versions: {} }
  document.versions[version] = json
  document['dist-tags'].latest = version
}
for (let n = 0; n < 16; n++) for (const v of ['1.0.0', '1.1.0', '2.0.0']) add(n, v)
const server = require('http').createServer((request, answer) => {
  const here = `http://127.0.0.1:${server.address().port}`
  if (files[request.url]) return answer.end(files[request.url])
  if (!documents[request.url]) { answer.statusCode = 404; return answer.end() }
  answer.end(JSON.stringify(documents[request.url]).replaceAll('HERE', here))
}).listen(0, '127.0.0.1', () => {
  fs.writeFileSync('address.new', `http://127.0.0.1:${server.address().port}/`)
  fs.renameSync('address.new', 'address')
})
JS
node registry.js & trap "kill $!" EXIT
while [ ! -e address ]; do kill -0 $!; sleep 0.05; done
export npm_config_registry="$(cat address)"
mkdir one && cd one
echo '{"name": "one", "version": "1.0.0", "dependencies": {"p0": "1.0.0", "p1": "^1.0.0"}}' \
    > package.json
npm install; node_modules/.bin/p0
npm install p2@1.0.0 p6@2; npm uninstall p1; npm ls --all | sed 1d
cat node_modules/p0/installed-0; mv node_modules ../was
npm ci
if [ "$LOADS" -gt 1 ]; then
    cp -r . ../two; cd ../two; npm update; npm dedupe; npm uninstall p2; npm ls --all | sed 1d
    npm install "$NPM"; node_modules/.bin/npm --version
fi
cd ..
rm -r cache made address cli
"""
