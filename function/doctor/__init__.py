"""What `doctor` judges: facts in, findings out, nothing but that.

Who looks (files, sockets, kubectl) is `commands/doctor`. A check that cannot be made says so: `skip`, never `ok`.
"""
