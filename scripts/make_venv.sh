#!/bin/sh
# Build .venv or bring it up to date; called by the Makefile as: make_venv.sh PYTHON [ARGUMENT OF PIP ...]
#
# PYTHON may be empty. The environment is built with the first of PYTHON, python3.11 ... python3.14 that runs, is new
# enough and has ensurepip. A command on the PATH may not work: version managers leave commands there that only fail.
set -eu

named=$1
shift
venv=.venv
installed=$venv/.installed    # the directory it was installed for; make compares its age with pyproject.toml
unfinished=.venv.unfinished   # exists during an installation: after a kill, packages only look complete
command='make install PYTHON=/path/to/python3'

say() { printf '%s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }
has_ensurepip() { "$1" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

choose() { # set $python to the first argument that can build an environment
    lacking=
    for python in "$@"; do
        if ! runs "$python"; then continue; fi
        if has_ensurepip "$python"; then return; fi
        lacking=${lacking:-$python}
    done
    [ -z "$lacking" ] || fail "$lacking cannot make an environment, as it lacks ensurepip:" \
        "install it (Debian and Ubuntu: apt install python$(version "$lacking")-venv), or name another: $command"
    fail "No Python 3.11 to 3.14 that runs was found: install one, or say where it is: $command"
}

sound() { # is there a complete environment, built for this directory?
    [ -x $venv/bin/python ] && [ ! -e $unfinished ] || return 1
    [ ! -e $installed ] || [ "$(cat $installed)" = "$(pwd -P)" ] || return 1
    runs $venv/bin/python && $venv/bin/python -m pip --version >/dev/null 2>&1
}

make_environment() {
    if [ -n "$named" ] && ! runs "$named"; then
        say "PYTHON=$named is not a Python 3.11 or newer that runs: looking for another" >&2
    fi
    choose ${named:+"$named"} python3.11 python3.12 python3.13 python3.14
    say "Making $venv with Python $(version "$python") ($python)"
    fresh=yes
    : >$unfinished
    # --clear and not rm: with .venv activated, $python may be the one in there
    "$python" -m venv --clear $venv ||
        fail "$python could not make $venv (see above): mend it, or name another: $command"
}

trap 'exit 130' INT # some shells would continue below after pip was interrupted, but $unfinished has to stay

fresh=
sound || make_environment
say "Installing freerun and everything it needs into $venv (the first time this takes some minutes)"
: >$unfinished
if $venv/bin/python -m pip install -qq --disable-pip-version-check "$@" -c constraints.txt -e '.[all]'; then
    rm $unfinished
    pwd -P >$installed
else
    [ -n "$fresh" ] || rm $unfinished # keep an environment that worked before
    fail 'pip could not install freerun (see above): mend that and run make again (after make clean-venv, if it stays)'
fi
