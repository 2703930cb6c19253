"""Runs without a Prefect server: what they report is written to a file, and a server takes it up later.

`ltx2 run` needs an API that its flows report to, and nobody looks at it meanwhile. Prefect's own server costs
ten to twenty seconds of processor time for one run. The recorder answers the few requests that flows make
(`api`, `records`, `slots`) and keeps each in a file of the workspace (`journal`). The server that
`ltx2 serve` starts writes them into Prefect's database (`deliver`).
"""
