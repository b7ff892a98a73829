"""The service: models behind HTTP, and a page to try them.

| file | content |
|---|---|
| supervisor | the process that was started: loads models, and starts and replaces workers |
| http_worker | a process that answers requests |
| connection | one client: its limits of time and size |
| service | the application: routes, keys, headers and counts |
| prediction_routes, translation_routes, stream_route, status_routes | what each address answers |
| asked | the types of requests and answers, from which ``openapi`` is generated |
| fair_queue, batch_runner | texts that wait, and the thread that decodes them in batches |
"""
