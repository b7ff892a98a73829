"""The service: models behind HTTP, and a page to try them.

| file | content |
|---|---|
| serve_settings | the options of the command |
| supervisor | the process that was started: loads models, and starts and replaces workers |
| served_models | the models, and how they are loaded again |
| http_worker | a process that answers requests |
| listener, connection | the socket, and one client: its limits of time and size |
| service, service_state | the application: routes, keys, headers and counts; and what its routes share |
| prediction_routes, translation_routes, forms, stream_route, documents | what each address answers |
| api_types, validation, openapi | requests and answers: their types, their mistakes, their description |
| fair_queue, batch_runner, model_calls | texts that wait, and the thread that decodes them in batches |
| problem, origins, api_keys | errors, and who may ask |
| counts, server_log | what is reported |
| page | the page, a module of JavaScript for each part |
"""
