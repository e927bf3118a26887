"""A fleet of boards: probe, build once for each class, bench on every board, ship what was chosen; driven by Ansible.

`plan` reads what is to be done, `boards` knows what a board is and which class it belongs to, `playbook` runs a step on
many boards by the program `ansible-playbook`, `campaign` puts the steps in order, and `journal` keeps what is done.
`trtexec` serves boards that are too old for this project. Ansible is GPL: it is run as a program and never imported.
"""
