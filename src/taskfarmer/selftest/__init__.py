"""The self-test: what does this directory's file system honour, and does the contract hold on it?

A conductor (`conductor`) gives orders to workers (`worker`), one or more on each host, which meet through files in the
directory and nothing else (`meeting`). The orders are single operations on files (`probes`) and farms of real farmers
that are killed, stopped and misled (`chaos`); what came of a farm is judged by its ledger and by what its tasks wrote
down themselves (`contract`). `checks` puts them in order and says what each result means.
"""
