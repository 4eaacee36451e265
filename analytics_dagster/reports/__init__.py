"""Reports: a view of a dashboard that goes out by e-mail or to Slack on a schedule.

`timetable` says when, `report` what and to whom, `store` keeps both, `sendings` which of them are due and who sends them,
`document` makes what is sent, `mail` and `slack` send it, and `send` puts these together. Nothing here knows Dagster or HTTP.
"""
