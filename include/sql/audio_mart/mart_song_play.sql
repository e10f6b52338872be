with details as (
    select
        detail.song_play_pk,
        detail.song_played_sec,
        detail.play_start_ts,
        detail.play_end_ts,
        row_number() over (partition by detail.song_play_pk order by detail.effective_from) as place
    from audio_vault.sat_song_play_details as detail
),
songs as (
    select
        context.song_play_pk,
        context.session_pk,
        song.song_name,
        song.song_artist,
        row_number() over (
            partition by context.song_play_pk
            order by
                song.song_artist nulls last, song.song_name nulls last, context.link_song_play_context_pk
        ) as place
    from audio_vault.link_song_play_context as context
    left join audio_vault.hub_song as song on song.song_pk = context.song_pk
),
plays as (
    select
        play.song_play_pk,
        play.user_id,
        songs.session_pk,
        songs.song_name,
        songs.song_artist,
        details.song_played_sec,
        details.play_start_ts,
        details.play_end_ts
    from audio_vault.hub_song_play as play
    inner join details on details.song_play_pk = play.song_play_pk and details.place = 1
    left join songs on songs.song_play_pk = play.song_play_pk and songs.place = 1
),
logins as (
    select
        plays.song_play_pk,
        login.user_agent_pk,
        login.location_geo_pk,
        login.location_city_pk,
        login.location_state_pk,
        -- The last one at or before the play comes first, then the first one after it.
        row_number() over (
            partition by plays.song_play_pk
            order by
                case when login.authorization_ts <= plays.play_start_ts then 0 else 1 end,
                case
                    when login.authorization_ts <= plays.play_start_ts then -unix_micros(login.authorization_ts)
                    else unix_micros(login.authorization_ts)
                end,
                login.authorization_pk
        ) as place
    from plays
    inner join audio_vault.t_link_authorization as login on login.session_pk = plays.session_pk
)
select
    plays.song_play_pk,
    plays.user_id,
    plays.song_played_sec,
    plays.play_start_ts,
    plays.play_end_ts,
    date_format(plays.play_start_ts, 'yyyy-MM-dd') as play_start_date,
    plays.song_name,
    plays.song_artist,
    agent.user_agent,
    city.location_city,
    state.location_state,
    geo.location_latitude,
    geo.location_longitude
from plays
left join logins on logins.song_play_pk = plays.song_play_pk and logins.place = 1
left join audio_vault.hub_user_agent as agent on agent.user_agent_pk = logins.user_agent_pk
left join audio_vault.hub_location_city as city on city.location_city_pk = logins.location_city_pk
left join audio_vault.hub_location_state as state on state.location_state_pk = logins.location_state_pk
left join audio_vault.hub_location_geo as geo on geo.location_geo_pk = logins.location_geo_pk
