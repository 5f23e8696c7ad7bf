# Read by Debian's ~/.bashrc.
alias ll='ls -l'
export EDITOR=nano
# Many terminals write one history: keep each line when it is run, and more of them than Debian's 1000.
shopt -s histappend
HISTSIZE=20000 HISTFILESIZE=40000
PROMPT_COMMAND="history -a${PROMPT_COMMAND:+; $PROMPT_COMMAND}"
