# shellcheck shell=sh
# Runs inside the new base system, as its root, after the packages: adds the user that sandboxes run as, and removes what
# depends on the building machine and what has no use in a sandbox.

useradd --uid 1000 --user-group --home-dir /home/dev --no-create-home --shell /bin/bash dev
cp -r /tmp/skel/. /etc/skel/
mkdir -p /home/dev
cp -r /etc/skel/. /home/dev/
mkdir -p /home/dev/project /home/dev/.local/bin
chown -R dev:dev /home/dev
chmod 755 /home/dev
printf '[init]\n\tdefaultBranch = main\n' >/etc/gitconfig
# Clones get the content of files in LFS, and not their pointers.
git lfs install --system --skip-repo >/dev/null

# No one changes user in a sandbox, so no program needs to be able to.
find / -xdev -type f -perm /6000 -exec chmod a-s {} +

# The mirror's proxy and certificates belong to the machine that built this.
rm -f /etc/apt/apt.conf.d/99mmdebstrap
# Mount points for what the runtime provides.
for file in /etc/resolv.conf /etc/hostname /etc/hosts; do
    rm -f "$file"
    : >"$file"
done
rm -rf /tmp/skel /tmp/finish-base.sh /var/log/* /var/cache/debconf/*-old /var/cache/ldconfig/* \
    /usr/share/info /usr/share/lintian /usr/share/linda /var/lib/dpkg/*-old /etc/*-
# Alternatives for manual pages that were not installed.
find /etc/alternatives /usr/share/man -xtype l -delete 2>/dev/null || true
