"""Scripts that run package managers and rsync in a chroot.

Law: the output of a script and the trees that are named below are the same on every file system.

The scripts make packages, and install, upgrade, remove and install them again.
"""

from __future__ import annotations

RPM = """
mkdir -p "$1" && cd "$1"
for version in 1 2; do
    cat > tiny.spec <<SPEC
Name: tiny
Version: $version
Release: 1
Summary: tiny
License: none
BuildArch: noarch
%description
tiny
%install
mkdir -p %{buildroot}/opt/tiny/bin %{buildroot}/etc
echo $version > %{buildroot}/opt/tiny/bin/tiny
ln %{buildroot}/opt/tiny/bin/tiny %{buildroot}/opt/tiny/bin/other
ln -s tiny %{buildroot}/opt/tiny/bin/link
echo conf > %{buildroot}/etc/tiny-rpm.conf
%files
%attr(4755, root, daemon) /opt/tiny/bin/tiny
%attr(4755, root, daemon) /opt/tiny/bin/other
/opt/tiny/bin/link
%config /etc/tiny-rpm.conf
%post
echo configured $version >> /opt/tiny/state
SPEC
    SOURCE_DATE_EPOCH=1400000000 rpmbuild --quiet -bb --define "_topdir $PWD" --define \\
        'clamp_mtime_to_source_date_epoch 1' tiny.spec
done
install() { rpm --force-debian --nodeps "$1" "RPMS/noarch/tiny-$2-1.noarch.rpm"; }
install -i 1 && rpm -V --nodeps tiny
install -U 2 && rpm -V --nodeps tiny
rpm -ql tiny && cat /opt/tiny/state && rpm --force-debian -e tiny && find /opt/tiny | sort
rpmdb --verifydb && install -i 1 && rpm -qa
# and from outside, as installers of a new root do
mkdir -p /opt/tiny-root && rpm --root /opt/tiny-root --initdb
into() { rpm --root /opt/tiny-root --force-debian --nodeps --noscripts "$@"; }
into -i RPMS/noarch/tiny-1-1.noarch.rpm && into -U RPMS/noarch/tiny-2-1.noarch.rpm
rpm --root /opt/tiny-root -qa && cat /opt/tiny-root/opt/tiny/bin/tiny
rm -r BUILD BUILDROOT SRPMS
"""

PIP = """
export PYTHONDONTWRITEBYTECODE=1 PATH=/usr/local/bin:$PATH
mkdir -p "$1" && cd "$1"
# pip wants to know the Debian, and in the test image a layer made a directory of that file
rm -rf /etc/debian_version && echo 12 > /etc/debian_version
for version in 1 2; do
    python3 - $version <<'PY'
import sys, zipfile
version = sys.argv[1]
info = f"tiny-{version}.dist-info"
files = {f"tiny/m{i}.py": f"VALUE = {i} + {version}\\n" for i in range(40)}
files["tiny/__init__.py"] = f"VERSION = {version}\\ndef main(): print(VERSION)\\n"
files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\\nName: tiny\\nVersion: {version}\\n"
files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
files[f"{info}/entry_points.txt"] = "[console_scripts]\\ntiny = tiny:main\\n"
with zipfile.ZipFile(f"tiny-{version}-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
    wheel.writestr(f"{info}/RECORD", "".join(f"{n},,\\n" for n in [*files, f"{info}/RECORD"]))
PY
done
pip() { python3 -m pip --disable-pip-version-check -q "$@" --root-user-action=ignore \\
    --break-system-packages; }
pip install --no-index --no-compile ./tiny-1-py3-none-any.whl && tiny
pip install --no-index --no-compile --upgrade ./tiny-2-py3-none-any.whl && tiny
pip uninstall -y tiny
find /usr/local | sort
pip install --no-index --no-compile ./tiny-1-py3-none-any.whl && tiny
"""

RSYNC = """
mkdir -p "$1" && cd "$1"
rsync -aHAX --numeric-ids /usr/lib/python3.11 /usr/share/perl5 .
rm -r python3.11/email && echo >> perl5/Debconf/Config.pm
rsync -aHAX --numeric-ids --delete /usr/lib/python3.11 /usr/share/perl5 .
rsync -aHAXn --numeric-ids --delete --itemize-changes /usr/lib/python3.11 /usr/share/perl5 .
"""
# name: (script, the trees that it decides)
PACKAGERS = {
    "rpm": (RPM, ("opt/tiny", "opt/tiny-root/opt", "opt/tiny-root/etc")),
    "pip": (PIP, ("usr/local/bin", "usr/local/lib/python3.11")),
    "rsync": (RSYNC, ("root/rsync",)),
}
